export type Labels = Readonly<Record<string, string>>;

export interface Counter {
  add(labels: Labels, amount?: number): void;
}

type Samples = () => Iterable<readonly [Labels, number]>;

interface Family {
  readonly help: string;
  readonly type: 'counter' | 'gauge';
  readonly sources: Samples[];
}

/** Numbers for Prometheus, in its text exposition format 0.0.4. Of one name there may be several sources. */
export class Metrics {
  readonly #families = new Map<string, Family>();

  counter(name: string, help: string): Counter {
    const values = new Map<string, [Labels, number]>();
    this.#add(name, help, 'counter', () => values.values());
    return {
      add(labels, amount = 1) {
        const id = textOf(labels);
        const sample = values.get(id);
        if (sample) sample[1] += amount;
        else values.set(id, [labels, amount]);
      },
    };
  }

  /** Read whenever someone asks. */
  gauge(name: string, help: string, samples: Samples): void {
    this.#add(name, help, 'gauge', samples);
  }

  render(): string {
    return [...this.#families].map(([name, family]) => renderFamily(name, family)).join('');
  }

  #add(name: string, help: string, type: Family['type'], samples: Samples): void {
    const family = this.#families.get(name);
    if (family) family.sources.push(samples);
    else this.#families.set(name, { help, type, sources: [samples] });
  }
}

export function addProcessMetrics(metrics: Metrics): void {
  metrics.gauge('process_resident_memory_bytes', 'Resident memory.', () => [[{}, process.memoryUsage.rss()]]);
  metrics.gauge('process_cpu_seconds', 'User and system time since the start.', () => {
    const { user, system } = process.cpuUsage();
    return [[{}, (user + system) / 1e6]];
  });
}

function renderFamily(name: string, { help, type, sources }: Family): string {
  const samples = sources.flatMap((source) => [...source()]);
  const lines = samples.map(([labels, value]) => `${name}${textOf(labels)} ${value}\n`);
  return `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${lines.join('')}`;
}

function textOf(labels: Labels): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${value.replace(/[\\"\n]/g, escape)}"`);
  return pairs.length === 0 ? '' : `{${pairs.join(',')}}`;
}

function escape(character: string): string {
  return character === '\n' ? '\\n' : `\\${character}`;
}
