import type { Action } from '../../drivers/openflow/types.js';
import { probeMacs } from '../common/identity.js';
import { edgeTables, probes, tables, tagged, type Uncookied } from './layout.js';

/** What the ways of probes on one host depend on. Ports are OpenFlow port numbers. */
export interface ProbePaths {
  /** This host, as "site/host". */
  readonly self: string;
  /** Each end of the patch pair. */
  readonly patch: { readonly int: number; readonly edge: number };
  /** The tunnel to each peer host, by "site/host". */
  readonly tunnels: ReadonlyMap<string, number>;
}

/** In isth-edge even, as all of ours there (docs/adr/0004). */
const priority = 200;

/**
 * The ways of probes: as tenants' frames between two hosts' isth-int, through the patch, both edges and one tunnel. A peer's
 * isth-int sends a request back as it came, ends swapped, so nothing of ours has to run there. What comes back is for us.
 * No machine is on this way, and no tunnel leads to another.
 */
export function probeFlows({ self, patch, tunnels }: ProbePaths): { int: Uncookied[]; edge: Uncookied[] } {
  if (tunnels.size === 0) return { int: [], edge: [] };
  const own = probeMacs(self);
  const peers = [...tunnels].map(([peer, tunnel]) => ({ tunnel, macs: probeMacs(peer) }));
  const arriving = { inPort: patch.int, vlanId: probes.vlan, ethType: probes.etherType } as const;
  const leaving = { inPort: patch.edge, vlanId: probes.vlan } as const;
  const encapsulate: Action[] = [{ type: 'popVlan' }, { type: 'setField', field: { tunnelId: BigInt(probes.vni) } }];
  return {
    int: [
      {
        table: tables.classify,
        priority,
        match: { ...arriving, ethDst: own.reply },
        instructions: { meter: probes.meter.id, apply: [{ type: 'output', port: 'controller' }] },
      },
      ...peers.map(({ macs }) => ({
        table: tables.classify,
        priority,
        match: { ...arriving, ethSrc: macs.reply, ethDst: own.request },
        instructions: {
          apply: [
            { type: 'setField', field: { ethSrc: own.request } },
            { type: 'setField', field: { ethDst: macs.reply } },
            { type: 'output', port: 'in_port' },
          ] satisfies Action[],
        },
      })),
    ],
    edge: [
      { table: edgeTables.classify, priority, match: leaving, instructions: { goto: edgeTables.forward } },
      ...peers.flatMap(({ tunnel, macs }) =>
        [macs.request, macs.reply].map((ethDst) => ({
          table: edgeTables.forward,
          priority,
          match: { ...leaving, ethDst },
          instructions: { apply: [...encapsulate, { type: 'output', port: tunnel } satisfies Action] },
        })),
      ),
      ...peers.map(({ tunnel }) => ({
        table: edgeTables.classify,
        priority,
        match: { inPort: tunnel, tunnelId: BigInt(probes.vni) },
        instructions: { apply: tagged(probes.vlan, patch.edge) },
      })),
    ],
  };
}
