// What the address and the server say about this visit.

/** From `/page/config.json`. */
export interface ServerConfig {
  /** The server hands out tokens: development mode on loopback or with --dev-tls. */
  tokens: boolean;
  version: string;
}

/** From the page's address: everything is optional. */
export interface Visit {
  room: string;
  name: string;
  token: string;
  /** Signalling address: the page's own host. A link must not be able to send a camera elsewhere. */
  url: string;
  codec: 'vp8' | 'vp9' | 'av1' | 'h264' | undefined;
  /** Two PeerConnections (`/rtc`) instead of one (`/rtc/v1`). */
  twoPeers: boolean;
  simulcast: boolean;
  autoSubscribe: boolean;
  /** Small capture for many participants on one machine. */
  small: boolean;
  microphone: boolean;
  camera: boolean;
}

/** Reads the query; a `join` flag lets a link go straight into the room. */
export function readVisit(): Visit & { join: boolean } {
  const query = new URLSearchParams(location.search);
  const flag = (name: string, otherwise: boolean) => {
    const value = query.get(name);
    return value === null ? otherwise : value !== '0' && value !== 'false';
  };
  const codec = query.get('codec')?.toLowerCase();
  return {
    room: query.get('room') ?? '',
    name: query.get('name') ?? localStorage.getItem('chappe.name') ?? '',
    token: query.get('token') ?? '',
    url: location.origin.replace(/^http/, 'ws'),
    codec: codec === 'vp8' || codec === 'vp9' || codec === 'av1' || codec === 'h264' ? codec : undefined,
    twoPeers: flag('two', false),
    simulcast: flag('simulcast', true),
    autoSubscribe: flag('subscribe', true),
    small: flag('small', false),
    microphone: flag('mic', true),
    camera: flag('camera', true),
    join: flag('join', false),
  };
}

export async function readServerConfig(): Promise<ServerConfig> {
  try {
    const response = await fetch('/page/config.json');
    if (response.ok) return (await response.json()) as ServerConfig;
  } catch {
    // The page can be served by something else than Chappe: then a token is needed.
  }
  return { tokens: false, version: '' };
}

/** The token of the visit, or one that a development server gives. */
export async function tokenFor(visit: Visit, config: ServerConfig): Promise<string> {
  if (visit.token) return visit.token;
  if (!config.tokens) throw new Error('This server needs an access token: paste it into the field.');
  const query = new URLSearchParams({ room: visit.room, name: visit.name });
  const response = await fetch(`/page/token?${query}`);
  if (!response.ok) throw new Error((await response.text()) || `No token: status ${response.status}`);
  return ((await response.json()) as { token: string }).token;
}

/** What a browser lacks for calls, as a sentence; empty when nothing. */
export function missingForCalls(): string {
  if (!('RTCPeerConnection' in window)) return 'This browser has no WebRTC: please use a current Chrome, Firefox or Safari.';
  if (!navigator.mediaDevices) {
    return 'Browsers give camera and microphone to secure pages only. Open this page over https (chappe --dev-tls) or on localhost. You can still join and watch.';
  }
  return '';
}
