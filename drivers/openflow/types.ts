import type { Observable } from 'rxjs';

/** Ethernet address as aa:bb:cc:dd:ee:ff, IPv4 as dotted quad; `/mask` in the same notation where a field may be masked. */
export interface Match {
  readonly inPort?: number;
  /** OXM metadata, with an optional mask. */
  readonly metadata?: bigint | { readonly value: bigint; readonly mask: bigint };
  /** The VNI of the tunnel that a frame came by, with an optional mask. */
  readonly tunnelId?: bigint | { readonly value: bigint; readonly mask: bigint };
  /** NXM_NX_TUN_IPV4_SRC: the outer sender of a frame that came by a tunnel; 0.0.0.0 = it came by none. */
  readonly tunnelSource?: string;
  readonly ethDst?: string;
  readonly ethSrc?: string;
  readonly ethType?: number;
  /** 'none' = untagged; a number = that VLAN id (present bit added); 'any' = tagged with whatever id. */
  readonly vlanId?: number | 'none' | 'any';
  readonly ipProtocol?: number;
  readonly ipv4Src?: string;
  readonly ipv4Dst?: string;
  /**
   * NXM_NX_IP_FRAG: 'no' = not a fragment, 'any' = any fragment, 'later' = not the first. A first fragment is matched by
   * its ports like a whole packet; a later one has none and is matched as if they were 0.
   */
  readonly ipFragment?: 'no' | 'any' | 'first' | 'later';
  readonly tcpSrc?: number | { readonly value: number; readonly mask: number };
  readonly tcpDst?: number | { readonly value: number; readonly mask: number };
  /** TCP's flags (RFC 9293 §3.1: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, …; 12 bits), ONF extension 109. A number = exactly these. */
  readonly tcpFlags?: number | { readonly value: number; readonly mask: number };
  readonly udpSrc?: number | { readonly value: number; readonly mask: number };
  readonly udpDst?: number | { readonly value: number; readonly mask: number };
  readonly icmpv4Type?: number;
  readonly icmpv4Code?: number;
  readonly arpOp?: number;
  readonly arpSpa?: string;
  readonly arpTpa?: string;
  readonly arpSha?: string;
  readonly arpTha?: string;
  /** NXM_NX_REG0..7 (32 bits each). */
  readonly registers?: Readonly<Record<number, number | { readonly value: number; readonly mask: number }>>;
  /** NXM_NX_CT_STATE bits; value and mask. */
  readonly ctState?: { readonly value: number; readonly mask: number };
  readonly ctZone?: number;
  readonly ctMark?: number | { readonly value: number; readonly mask: number };
  /** Of a flow that was read: fields that this type does not know, as OXM TLVs in hexadecimal. Such a flow equals none that is wanted. */
  readonly other?: string;
}

export type Action =
  | {
      readonly type: 'output';
      readonly port: number | 'in_port' | 'controller' | 'local' | 'normal';
      readonly maxLength?: number;
    }
  | { readonly type: 'pushVlan' }
  | { readonly type: 'popVlan' }
  | { readonly type: 'setField'; readonly field: SetField }
  /** NXAST_REG_LOAD into all 32 bits of a register. */
  | { readonly type: 'loadRegister'; readonly register: number; readonly value: number }
  /** NXAST_OUTPUT_REG: the port number in the low 16 bits of the register. */
  | { readonly type: 'outputRegister'; readonly register: number }
  /** NXAST_RESUBMIT_TABLE with the packet's in_port. */
  | { readonly type: 'resubmit'; readonly table: number }
  /** NXAST_CT. */
  | {
      readonly type: 'ct';
      readonly commit: boolean;
      readonly zone: number | { readonly register: number };
      readonly table?: number;
      readonly mark?: number;
    }
  /** NXAST_CT_CLEAR: the packet is untracked again. */
  | { readonly type: 'ctClear' }
  /** Of a flow that was read: an action that this type does not know, whole, in hexadecimal. */
  | { readonly type: 'other'; readonly hex: string };

export type SetField =
  | { readonly vlanId: number }
  | { readonly tunnelId: bigint }
  | { readonly ethSrc: string }
  | { readonly ethDst: string }
  | { readonly ipv4Src: string }
  | { readonly ipv4Dst: string }
  | { readonly tcpDst: number }
  | { readonly udpDst: number };

/** What a flow does: metering, actions applied at once, then metadata written, then the next table. Nothing of it = drop. */
export interface Instructions {
  /** The meter that drops what comes too fast, before anything else happens to it. It must exist. */
  readonly meter?: number;
  readonly apply?: readonly Action[];
  readonly writeMetadata?: { readonly value: bigint; readonly mask: bigint };
  readonly goto?: number;
  /** Of a flow that was read: instructions that this type does not know, in hexadecimal. */
  readonly other?: string;
}

export interface Flow {
  readonly table: number;
  readonly priority: number;
  readonly cookie: bigint;
  readonly match: Match;
  readonly instructions: Instructions;
  /** Of a flow that was read: it goes away by itself. Flows that we add never do. */
  readonly timeouts?: { readonly idleSeconds: number; readonly hardSeconds: number };
}

export type FlowIdentity = Pick<Flow, 'table' | 'priority' | 'match' | 'cookie'>;

export interface FlowFilter {
  readonly table?: number;
  readonly cookie?: bigint;
  /** Default: all bits when cookie is given. */
  readonly cookieMask?: bigint;
}

/** One message of a bundle. add replaces a flow of the same table, match and priority; removals that match nothing succeed. */
export type FlowChange =
  | { readonly kind: 'add'; readonly flow: Flow }
  /** DELETE_STRICT by table, priority and match (and cookie). */
  | { readonly kind: 'remove'; readonly flow: FlowIdentity }
  /** DELETE of all flows that the filter meets. */
  | { readonly kind: 'removeAll'; readonly filter: FlowFilter };

export interface PortDescription {
  readonly port: number;
  readonly name: string;
  readonly mac: string;
}

/** A rate that packets may have: what exceeds it is dropped. */
export interface MeterRate {
  /** At least 1. */
  readonly packetsPerSecond: number;
  /** How many packets may come at once after a pause. At least 1. */
  readonly burst: number;
}

/** A meter that flows name (1 to 0xffff0000), or the one that all packets to controllers go through (OFPM_CONTROLLER). */
export type MeterId = number | 'controller';

export interface Meter {
  readonly id: MeterId;
  /** Undefined if the meter is of another kind than those that this client makes: such a one equals none that is wanted. */
  readonly rate?: MeterRate;
}

export interface OpenFlowTls {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

export interface OpenFlowOptions {
  readonly tls?: OpenFlowTls;
  readonly connectTimeoutMs?: number;
  readonly callTimeoutMs?: number;
  /** An idle switch is probed with ECHO_REQUEST after this long, and given up after as long again. Default 5 s. */
  readonly echoIntervalMs?: number;
}

export type SwitchState =
  { readonly connected: true; readonly datapathId: bigint } | { readonly connected: false; readonly error?: Error };

/**
 * An OpenFlow 1.3 controller's connection to one bridge's passive listener; reconnects by itself (back-off with jitter,
 * 0.2 to 5 s) and sends SET_CONFIG, so that asynchronous messages arrive and first fragments match by their ports (Open
 * vSwitch's OFPC_FRAG_NX_MATCH). Calls fail with OpenFlowError (type, code, the
 * index of the bundle's message), OpenFlowTimeoutError or OpenFlowConnectionError; nothing is retried.
 */
export interface Switch extends AsyncDisposable {
  readonly endpoint: string;
  /** Replays the current state. */
  readonly state: Observable<SwitchState>;
  /** FLOW_REMOVED with reason DELETE, for flows added with SEND_FLOW_REM (all that this client adds). Not for our own removals' sake: the receiver compares with what it wants. */
  readonly flowRemoved: Observable<{
    readonly table: number;
    readonly priority: number;
    readonly cookie: bigint;
    readonly match: Match;
  }>;
  /** A packet that a flow sent to the controller, whole unless the action said otherwise. */
  readonly packetIn: Observable<{
    readonly inPort: number;
    readonly cookie: bigint;
    readonly table: number;
    readonly data: Buffer;
    readonly metadata: bigint;
    /** Of the tunnel that it came by; 0n = none. */
    readonly tunnelId: bigint;
    /** Who sent it through the tunnel. */
    readonly tunnelSource?: string;
  }>;
  ready(timeoutMs?: number): Promise<void>;
  dumpFlows(filter?: FlowFilter): Promise<Flow[]>;
  /** Hands over each flow as the answer comes in, so that no list of all is held. It may fail after some. */
  readFlows(filter: FlowFilter, each: (flow: Flow) => void): Promise<void>;
  ports(): Promise<PortDescription[]>;
  /** All changes or none (ONF bundle extension 230, ordered and atomic), then a barrier: resolved = in force. */
  bundle(changes: readonly FlowChange[]): Promise<void>;
  barrier(): Promise<void>;
  /** Makes a meter, or gives it another rate; the flows that name it stay. Meters are no part of a bundle. */
  setMeter(id: MeterId, rate: MeterRate): Promise<void>;
  /** Removes a meter, and with it all flows that name it. It succeeds if there is none. */
  removeMeter(id: MeterId): Promise<void>;
  meters(): Promise<Meter[]>;
  /** NXT_CT_FLUSH_ZONE: the datapath forgets all connections of a conntrack zone, whichever of its bridges tracked them. */
  flushConnections(zone: number): Promise<void>;
  packetOut(inPort: number | 'controller', actions: readonly Action[], data: Uint8Array): Promise<void>;
  close(): Promise<void>;
}
