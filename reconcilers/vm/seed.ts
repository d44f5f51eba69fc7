import { hash } from 'bcryptjs';
import type { CloudInit, FederatedVM } from '../../crds/index.js';
import { metaData, networkConfigV2, seedImage, userData } from '../../drivers/cloudinit/index.js';
import { Waiting } from '../common/errors.js';
import type { InterfaceRecord } from '../common/records.js';
import type { ReadSecret } from '../objects.js';
import type { PlannedInterface } from './plan.js';

/** Cost of the password's hash: the default of the field, some 50 ms. */
const bcryptRounds = 10;

/** The NoCloud seed of a machine: who it is, who may log in, and its fixed addresses. Throws Waiting for a missing Secret. */
export async function buildSeed(
  machine: FederatedVM,
  fuid: string,
  cloudInit: CloudInit,
  networks: readonly PlannedInterface[],
  interfaces: readonly InterfaceRecord[],
  readSecret: ReadSecret,
): Promise<Uint8Array> {
  const hostname = cloudInit.hostname ?? machine.metadata.name;
  const secret = async (
    field: string,
    ref: { name: string; key?: string | undefined } | undefined,
    defaultKey: string,
  ) => {
    if (!ref) return undefined;
    const key = ref.key ?? defaultKey;
    const value = (await readSecret(machine.metadata.namespace, ref.name))?.[key];
    if (!value)
      throw new Waiting(
        'SecretMissing',
        `spec.cloudInit.${field}: there is no key ${key} in a Secret ${ref.name} of namespace ${machine.metadata.namespace}; create it`,
        10_000,
      );
    return value.toString('utf8');
  };
  const [password, keys, whole] = await Promise.all([
    secret('passwordSecretRef', cloudInit.passwordSecretRef, 'password'),
    secret('sshKeysSecretRef', cloudInit.sshKeysSecretRef, 'authorized_keys'),
    secret('userDataSecretRef', cloudInit.userDataSecretRef, 'userdata'),
  ]);
  const sshAuthorizedKeys = [...(cloudInit.sshAuthorizedKeys ?? []), ...lines(keys)];
  const login =
    cloudInit.user === undefined
      ? {}
      : {
          user: cloudInit.user,
          ...(password === undefined ? {} : { passwordHash: await hash(password.trimEnd(), bcryptRounds) }),
        };
  return seedImage({
    metaData: metaData({ instanceId: fuid, hostname }),
    userData: whole ?? userData({ hostname, ...login, sshAuthorizedKeys, packages: cloudInit.packages ?? [] }),
    networkConfig: networkConfigV2(
      networks.flatMap((network, index) => {
        const given = interfaces[index];
        return given
          ? [
              {
                mac: given.mac,
                address: given.address,
                prefixLength: network.prefixLength,
                mtu: network.record.mtu,
                // A router is not its own way out.
                gateway: network.gateway === given.address ? undefined : network.gateway,
              },
            ]
          : [];
      }),
    ),
  });
}

const lines = (text: string | undefined): string[] =>
  (text ?? '').split(/\r?\n/).filter((line) => line.trim() !== '' && !line.startsWith('#'));
