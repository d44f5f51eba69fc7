import { fuidOfVolume, networkCookie } from '../../../reconcilers/common/identity.js';
import type { Driver } from '../../../reconcilers/common/records.js';
import { tables } from '../../../reconcilers/dataplane/layout.js';
import { consulDump, consulIndex } from './consul.js';
import { list, ourKinds, title } from './kube.js';
import { inSite, labHosts, type LabHost } from './run.js';

/** What there is, in lines under headings, sorted, so that two of them compare and their difference reads. */
export type World = Readonly<Record<string, readonly string[]>>;

const heading = '== ';

/** Sections of a script's output: a line `== name`, then the section's lines. */
async function survey(site: LabHost, script: string): Promise<Record<string, string[]>> {
  const found: Record<string, string[]> = {};
  let lines: string[] = [];
  for (const line of (await inSite(site, 'bash', '-c', script)).split('\n').map((each) => each.trim())) {
    if (line.startsWith(heading)) found[`${site}: ${line.slice(heading.length)}`] = lines = [];
    else if (line !== '') lines.push(line);
  }
  for (const section of Object.values(found)) section.sort();
  return found;
}

/** Run time only, such as ids and counters, is left out; so is what the guests write. */
const surveyScript = String.raw`
for driver in qemu lxc; do echo "== $driver domains"; virsh -q -c $driver:///system list --all --uuid --name; done
echo '== libvirt networks'; virsh -q -c qemu:///system net-list --all
for pool in $(virsh -q -c qemu:///system pool-list --name); do
  echo "== volumes of $pool"; virsh -q -c qemu:///system vol-list "$pool"
done
echo '== bridges'; ovs-vsctl -f csv --no-headings --columns=name,datapath_type,fail_mode,protocols,external_ids,other_config list bridge
echo '== ports'; ovs-vsctl -f csv --no-headings --columns=name,tag,external_ids list port
echo '== interfaces'; ovs-vsctl -f csv --no-headings --columns=name,type,options,external_ids list interface
echo '== listeners'; ovs-vsctl -f csv --no-headings --columns=target list controller
for bridge in isth-int isth-edge; do
  echo "== flows of $bridge"
  ! ovs-vsctl br-exists $bridge || ovs-ofctl -O OpenFlow13 --no-names --no-stats dump-flows $bridge
done
`;

/** Everything outside the operator: libvirt, Open vSwitch, Consul, the API server. */
export async function world(): Promise<World> {
  const [consul, ours, others, ...perSite] = await Promise.all([
    consulDump(),
    list(),
    list('leases,secrets'),
    ...labHosts.map((site) => survey(site, surveyScript)),
  ]);
  const objects = ours.map(
    (each) => `${title(each)} ${each.metadata.finalizers?.join() ?? ''} ${JSON.stringify(each.spec)}`,
  );
  return Object.assign(
    {
      consul: [...consul].map(([key, value]) => `${key} ${value}`).sort(),
      objects: objects.sort(),
      others: others.map(title).sort(),
    },
    ...perSite,
  ) as World;
}

const traceScript = String.raw`
echo '== definitions'; find /etc/libvirt /var/lib/libvirt -name '*.xml' -printf '%p %s %T@ %C@\n'
echo '== volumes'; for pool in $(virsh -q -c qemu:///system pool-list --name); do virsh -q -c qemu:///system vol-list "$pool"; done
echo '== database'; stat -c '%n %s %y' /etc/openvswitch/conf.db
`;

const ageScript = String.raw`
for bridge in isth-int isth-edge; do ovs-ofctl -O OpenFlow13 dump-flows $bridge | sed -n 's/.*duration=\([0-9.]*\)s.*/\1/p'; done
`;

/** What every write leaves behind: two equal answers mean that nothing was written in between. */
export interface Traces {
  /** Versions, sizes and times of change. */
  readonly marks: World;
  /** Age of the flow that was installed last; an added flow starts from 0, whether it was there before or not. */
  readonly youngestFlowMs: number;
}

export async function traces(): Promise<Traces> {
  const [index, objects, ages, ...perSite] = await Promise.all([
    consulIndex('isthmus/'),
    list(`${ourKinds},secrets,events`),
    Promise.all(labHosts.map((site) => inSite(site, 'bash', '-c', ageScript))),
    ...labHosts.map((site) => survey(site, traceScript)),
  ]);
  return {
    marks: Object.assign(
      { consul: [index], objects: objects.map((each) => `${title(each)} ${each.metadata.resourceVersion}`).sort() },
      ...perSite,
    ) as World,
    youngestFlowMs: 1_000 * Math.min(...ages.join('\n').trim().split(/\s+/).map(Number)),
  };
}

/** Where a domain is, and in which state: `valencia running`. */
export async function whereabouts(uuid: string, driver: Driver = 'qemu'): Promise<string[]> {
  const found = await Promise.all(
    labHosts.map(async (site) => {
      const script = `virsh -q list --all --uuid | grep -qF "$0" && virsh -q domstate "$0" || true`;
      const state = (
        await inSite(site, 'env', `LIBVIRT_DEFAULT_URI=${driver}:///system`, 'bash', '-c', script, uuid)
      ).trim();
      return state === '' ? [] : [`${site} ${state}`];
    }),
  );
  return found.flat();
}

/** Where a machine's volumes are: what, pool and site of each, `root default lisbon`. */
export async function volumesOf(uid: string): Promise<string[]> {
  const found = await Promise.all(
    labHosts.flatMap((site) =>
      ['default', 'shared'].map(async (pool) => {
        const list = `virsh -q pool-refresh ${pool} >/dev/null 2>&1 && virsh -q vol-list ${pool} || true`;
        return (
          (await inSite(site, 'sh', '-c', list))
            .split('\n')
            .map((line) => line.trim().split(/\s+/)[0] ?? '')
            .filter((name) => fuidOfVolume(name) === uid)
            // A container has but one, and its name no room for what it is.
            .map((name) => `${/isth-[0-9a-f-]{36}-(\w+)/.exec(name)?.[1] ?? 'root'} ${pool} ${site}`)
        );
      }),
    ),
  );
  return found.flat().sort();
}

const macPattern = /^([0-9a-f]{2}:){5}[0-9a-f]{2}$/;

/** Frames that the switch has sent to the machine that has this MAC. */
export async function framesSentTo(site: LabHost, mac: string): Promise<number> {
  if (!macPattern.test(mac)) throw new Error(`not a MAC: ${mac}`);
  const script = `name=$(ovs-vsctl --bare --columns=name find interface 'external_ids:attached-mac="${mac}"')
    ovs-ofctl -O OpenFlow13 dump-ports isth-int "$name"`;
  const [, count] = /tx pkts=(\d+)/.exec(await inSite(site, 'bash', '-c', script)) ?? [];
  if (count === undefined) throw new Error(`site ${site} has no port of ${mac}`);
  return Number(count);
}

/** Frames to all of a network that a site's integration bridge has let through. */
export async function broadcastsOf(site: LabHost, vni: number): Promise<number> {
  const match = `cookie=0x${networkCookie(vni).toString(16)}/-1,table=${String(tables.forward)}`;
  const flows = await inSite(site, 'ovs-ofctl', '-O', 'OpenFlow13', 'dump-flows', 'isth-int', match);
  const [, count] = /n_packets=(\d+).*priority=90,/.exec(flows) ?? [];
  if (count === undefined) throw new Error(`site ${site} has no flood flow of VNI ${String(vni)}: ${flows}`);
  return Number(count);
}

/** Where frames to a MAC leave a site's boundary switch: the peer hosts of the tunnels, as `saopaulo/a`. */
export async function edgeTargets(site: LabHost, mac: string): Promise<string[]> {
  if (!macPattern.test(mac)) throw new Error(`not a MAC: ${mac}`);
  const script = `ovs-ofctl -O OpenFlow13 --no-names --no-stats dump-flows isth-edge | sed -n 's/.*dl_dst=${mac} .*output:\\([0-9]*\\).*/\\1/p' |
    while read -r port; do
      ovs-vsctl --bare --columns=external_ids find interface ofport="$port" 'external_ids:isthmus=tunnel' | sed -n 's/.*isthmus-peer=\\([^ ]*\\).*/\\1/p'
    done`;
  return (await inSite(site, 'bash', '-c', script))
    .trim()
    .split('\n')
    .filter((line) => line !== '');
}
