// Small helpers over the DOM: the page has no framework because it has one screen at a time.

type Child = Node | string | null | undefined;

/** Creates an element: `h('button', { class: 'primary', onclick }, 'Join')`. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Record<string, unknown> = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on') && typeof value === 'function') {
      element.addEventListener(name.slice(2), value as EventListener);
    } else {
      element.setAttribute(name, value === true ? '' : String(value));
    }
  }
  for (const child of children) if (child !== null && child !== undefined) element.append(child);
  return element;
}

const paths: Record<string, string> = {
  mic: 'M12 15a4 4 0 0 0 4-4V6a4 4 0 1 0-8 0v5a4 4 0 0 0 4 4ZM5 11a7 7 0 0 0 14 0M12 18v4',
  micOff: 'M3 3l18 18M8 8v3a4 4 0 0 0 6 3.5M16 11V6a4 4 0 0 0-7.5-2M5 11a7 7 0 0 0 10.5 6M19 11a7 7 0 0 1-.6 2.8M12 18v4',
  camera: 'M3 7h12v10H3zM15 11l6-4v10l-6-4',
  cameraOff: 'M3 3l18 18M9 7h6v6m0 4H3V7h2M15 11l6-4v10',
  screen: 'M3 4h18v12H3zM8 20h8M12 16v4M12 13V7m-3 3 3-3 3 3',
  chat: 'M4 5h16v11H9l-5 4z',
  people: 'M9 11a4 4 0 1 0 0-8 4 4 0 0 0 0 8ZM2 21a7 7 0 0 1 14 0M16 3.5a4 4 0 0 1 0 7M18 14.5a7 7 0 0 1 4 6.5',
  stats: 'M4 20V10M10 20V4M16 20v-7M22 20H2',
  settings: 'M4 7h10M18 7h2M4 17h2M10 17h10M16 4v6M8 14v6',
  leave: 'M3 14c5-5 13-5 18 0l-2.5 3-4-1.5V13a12 12 0 0 0-5 0v2.5L5.500 17z',
  close: 'M6 6l12 12M18 6 6 18',
  send: 'M4 12 21 4l-5 17-4-7z',
};

/** A line icon that takes the text's colour. */
export function icon(name: keyof typeof paths | string): SVGSVGElement {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('class', 'icon');
  svg.setAttribute('aria-hidden', 'true');
  const path = document.createElementNS(svg.namespaceURI, 'path');
  path.setAttribute('d', paths[name] ?? '');
  svg.append(path);
  return svg;
}

/** Replaces what `parent` shows. */
export function show(parent: Element, ...children: Child[]): void {
  parent.replaceChildren(...children.filter((child): child is Node | string => child != null));
}
