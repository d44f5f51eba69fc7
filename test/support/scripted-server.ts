import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';

/** A TCP server whose answers a test writes: `connected` is called with each connection and how many there were before. */
export class ScriptedServer implements AsyncDisposable {
  readonly #sockets = new Set<Socket>();
  /** When each connection came, in milliseconds of performance.now(). */
  readonly connectedAt: number[] = [];

  private constructor(
    private readonly server: Server,
    readonly endpoint: string,
  ) {}

  static async start(connected: (socket: Socket, earlier: number) => void): Promise<ScriptedServer> {
    const server = createServer();
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const address = server.address();
    if (address === null || typeof address === 'string') throw new Error('a TCP server has a port');
    const scripted = new ScriptedServer(server, `tcp:127.0.0.1:${address.port}`);
    server.on('connection', (socket) => {
      scripted.#sockets.add(socket);
      socket.on('error', () => undefined).on('close', () => scripted.#sockets.delete(socket));
      connected(socket, scripted.connectedAt.push(performance.now()) - 1);
    });
    return scripted;
  }

  async stop(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.server.close();
    await once(this.server, 'close');
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }
}
