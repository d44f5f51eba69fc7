import js from '@eslint/js';
import tseslint from 'typescript-eslint';

// Which folder may import which. The arrows point one way: controllers -> reconcilers -> driver interfaces; drivers know
// nothing of Kubernetes, and drivers/libvirt nothing of us, so that it can be published by itself.
const forbid = (files, patterns) => ({
  files,
  rules: {
    'no-restricted-imports': ['error', { patterns: patterns.map(([group, message]) => ({ regex: group, message })) }],
  },
});

const kubernetes = ['^@kubernetes/client-node', 'Only controllers/kube/client.ts imports the Kubernetes client.'];
const consul = ['^consul$', 'Only drivers/consul imports the Consul client.'];

export default tseslint.config(
  { ignores: ['dist/', '.cache/', '.lab/', 'node_modules/', 'coverage/'] },
  js.configs.recommended,
  ...tseslint.configs.strictTypeChecked,
  {
    languageOptions: {
      parserOptions: { projectService: { allowDefaultProject: ['*.js'] }, tsconfigRootDir: import.meta.dirname },
    },
    rules: {
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true, allowBoolean: true }],
      '@typescript-eslint/switch-exhaustiveness-check': ['error', { considerDefaultExhaustiveForUnions: true }],
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/no-confusing-void-expression': ['error', { ignoreArrowShorthand: true }],
      '@typescript-eslint/no-unnecessary-condition': [
        'error',
        { allowConstantLoopConditions: 'only-allowed-literals' },
      ],
      '@typescript-eslint/no-extraneous-class': 'off',
      '@typescript-eslint/no-unused-vars': ['error', { ignoreRestSiblings: true }],
      'no-console': 'error',
      eqeqeq: 'error',
    },
  },
  { files: ['*.js'], ...tseslint.configs.disableTypeChecked },
  {
    files: ['lab/**', 'bench/**', 'demo/**', 'test/support/**', 'test/e2e/**', 'crds/generate.ts'],
    rules: { 'no-console': 'off' },
  },
  forbid(
    ['drivers/**/*.ts'],
    [
      ['/(controllers|reconcilers|lab|test|bench)/', 'Drivers know nothing of controllers and reconcilers.'],
      kubernetes,
    ],
  ),
  forbid(
    ['drivers/libvirt/**/*.ts'],
    [
      ['^\\.\\./\\.\\.', 'drivers/libvirt stands alone: it is published by itself.'],
      ['^\\.\\./(?!\\.)(consul|ovsdb|openflow|cloudinit)', 'drivers/libvirt stands alone: it is published by itself.'],
      kubernetes,
      consul,
    ],
  ),
  forbid(
    ['reconcilers/**/*.ts'],
    [
      ['/(controllers|lab|test|bench)/', 'Reconcilers know nothing of controllers.'],
      ['^(node:net|node:tls|node:http|node:https)$', 'Reconcilers never see a socket.'],
      kubernetes,
      consul,
    ],
  ),
  forbid(
    ['crds/**/*.ts'],
    [['/(controllers|reconcilers|drivers|lab|test|bench)/', 'The schemas depend on nothing.'], kubernetes],
  ),
  forbid(
    ['controllers/**/*.ts'],
    [['/(lab|test|bench)/', 'The product knows nothing of the lab.'], kubernetes, consul],
  ),
  { files: ['controllers/kube/client.ts', 'drivers/consul/**'], rules: { 'no-restricted-imports': 'off' } },
);
