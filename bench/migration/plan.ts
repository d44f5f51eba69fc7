/** What is measured: each flavor's memory, idle and writing, over a WAN as it is and over a slow one, for each way of storage. */

/**
 * The four flavors, with as much of their memory as two cores that emulate can load and the slow WAN carries in half a minute. The
 * paper's figures are of flavors of that order in full size.
 */
export const flavors = {
  tiny: { memoryMiB: 128, full: '512 MiB' },
  small: { memoryMiB: 176, full: '2 GiB' },
  medium: { memoryMiB: 224, full: '4 GiB' },
  large: { memoryMiB: 352, full: '8 GiB' },
} as const;
export type Flavor = keyof typeof flavors;

export const loads = ['idle', 'writing'] as const;
export type Load = (typeof loads)[number];

/** The WAN's rate in Mbit/s; undefined: what the machine carries. */
export const wans = { unshaped: undefined, shaped: 100 } as const;
export type Wan = keyof typeof wans;

/** Another one also needs its way to move a disk in bench/floor/mover.ts. */
export const storages = ['Shared', 'Local', 'Cached'] as const;
export type Storage = (typeof storages)[number];

export interface Cell {
  readonly flavor: Flavor;
  readonly storage: Storage;
  readonly wan: Wan;
  readonly load: Load;
}

/** Of a guest's memory, what its kernel and programs need: with less than that for them it ends in a panic. */
const kernelMiB = 80;

/** What a guest writes again and again: three quarters of its memory, as the paper's load, or all that its kernel leaves. */
export const loadMiB = (flavor: Flavor): number =>
  Math.min(0.75 * flavors[flavor].memoryMiB, flavors[flavor].memoryMiB - kernelMiB);

export type Choice = { readonly [K in keyof Cell]?: readonly string[] | undefined };

/** One flavor tells the ways to move a disk apart: they differ by the same for all. */
const isUsual = ({ storage, flavor }: Cell): boolean => storage === 'Shared' || flavor === 'tiny';

/**
 * The cells that are asked for; of each kind that is left out, all. Without a choice, the usual ones. Idle before writing: what
 * was written once may be sent ever after.
 */
export function cells(choice: Choice, isWhole: boolean): Cell[] {
  const chosen = <T extends string>(all: readonly T[], wanted: readonly string[] | undefined): readonly T[] =>
    all.filter((each) => wanted?.includes(each) ?? true);
  const found: Cell[] = [];
  for (const storage of chosen(storages, choice.storage))
    for (const flavor of chosen(Object.keys(flavors) as Flavor[], choice.flavor))
      for (const load of chosen(loads, choice.load))
        for (const wan of chosen(Object.keys(wans) as Wan[], choice.wan)) found.push({ flavor, storage, wan, load });
  const isChosen = isWhole || Object.values(choice).some((wanted) => wanted !== undefined);
  return isChosen ? found : found.filter(isUsual);
}

/** What does not exist of what was asked for. */
export function unknownIn(choice: Choice): string[] {
  const all: Required<Choice> = {
    storage: storages,
    flavor: Object.keys(flavors),
    wan: Object.keys(wans),
    load: loads,
  };
  return (Object.keys(all) as (keyof Cell)[]).flatMap((kind) =>
    (choice[kind] ?? []).filter((each) => !all[kind]?.includes(each)).map((each) => `--${kind} ${each}`),
  );
}

/** The cells of each guest, one after the other: it is made once for all of them. */
export function guestsOf(cells: readonly Cell[]): (readonly [Cell, ...Cell[]])[] {
  const guests: [Cell, ...Cell[]][] = [];
  for (const cell of cells) {
    const guest = guests.find(([{ storage, flavor }]) => storage === cell.storage && flavor === cell.flavor);
    if (guest) guest.push(cell);
    else guests.push([cell]);
  }
  return guests;
}

/** Measured on two cores that emulate: what an idle guest's copy sends, how fast copies are, and what comes before and after. */
const usual = {
  idleMiB: 95,
  MiBPerSecond: { unshaped: { idle: 30, writing: 13 }, shaped: { idle: 10.5, writing: 11.4 } },
  /** By auto-converge, which takes some rounds of copying. */
  timesOnSlowWan: 2.5,
  beforeAndAfterSeconds: { idle: 3, writing: 6 },
  guestSeconds: 15,
  startSeconds: 20,
} as const;

const onceMiB = ({ flavor, load }: Pick<Cell, 'flavor' | 'load'>): number =>
  usual.idleMiB + (load === 'writing' ? loadMiB(flavor) : 0);

/** How long a copy is given: some time, and thrice what the slow WAN needs for all that a guest may have. */
export const usualCapSeconds = ({ flavor }: Cell): number =>
  20 + Math.ceil((3 * onceMiB({ flavor, load: 'writing' })) / usual.MiBPerSecond.shaped.writing);

/** How long it takes to measure these, ours and bare libvirt's, of which the latter does not end on the slow WAN if the guest writes. */
export function estimatedSeconds(cells: readonly Cell[], rounds: number, capSecondsOf: (cell: Cell) => number): number {
  const copies = cells.map((cell) => {
    const once = onceMiB(cell) / usual.MiBPerSecond[cell.wan][cell.load];
    if (cell.load === 'idle' || cell.wan === 'unshaped') return 2 * once;
    return Math.min(usual.timesOnSlowWan * once, capSecondsOf(cell)) + capSecondsOf(cell);
  });
  const moves = copies.reduce(
    (sum, seconds, at) => sum + seconds + 2 * usual.beforeAndAfterSeconds[cells[at]?.load ?? 'idle'],
    0,
  );
  return usual.startSeconds + guestsOf(cells).length * usual.guestSeconds + rounds * moves;
}
