import type { Interruption } from './errors.js';

/** What a reconcile found, for conditions, events and the next try. The status's own fields come beside it. */
export interface Outcome<Status> {
  /** The kind's own status fields; conditions and observedGeneration are added by the controller. */
  readonly status: Status;
  readonly ready: { readonly value: boolean; readonly reason: string; readonly message: string };
  /** Set while it is not as wanted yet and being worked on. */
  readonly reconciling?: { readonly reason: string; readonly message: string };
  /** Set when only the user can help. */
  readonly stalled?: { readonly reason: string; readonly message: string };
  /** Conditions beyond Ready, Reconciling, Stalled, e.g. RestartRequired, DeletionBlocked. */
  readonly conditions?: readonly {
    readonly type: string;
    readonly status: 'True' | 'False';
    readonly reason: string;
    readonly message: string;
  }[];
  /** When to look again if nothing happens; undefined: at the next event or resync. */
  readonly requeueAfterMs?: number;
  /** Try again with back-off. */
  readonly retry?: boolean;
  /** A deleted object of which nothing is left: the finalizer may go. */
  readonly finished?: boolean;
}

/** The one place where what went wrong becomes conditions and the next try. */
export function interrupted<Status>(status: Status, error: Interruption): Outcome<Status> {
  const { reason, message } = error;
  const ready = { value: false, reason, message };
  switch (error.code) {
    case 'ISTHMUS_STALLED':
      return { status, ready, stalled: { reason, message } };
    case 'ISTHMUS_WAITING':
      return { status, ready, reconciling: { reason, message }, requeueAfterMs: error.afterMs };
    case 'ISTHMUS_TRANSIENT':
      return { status, ready, reconciling: { reason, message }, retry: true };
  }
}
