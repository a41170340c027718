// What tests ask a page about its media, and a microphone that speaks. Functions run in the page.

/**
 * Before a page loads: its microphone hears somebody who talks without a pause, in syllables. The browser's own fake
 * microphone beeps for 20 ms twice a second, which nobody takes for speech.
 */
export async function talkingMicrophone(page) {
  await page.evaluateOnNewDocument(() => {
    const original = MediaDevices.prototype.getUserMedia;
    MediaDevices.prototype.getUserMedia = async function get(constraints) {
      if (!constraints?.audio || constraints.video) return original.call(this, constraints);
      const context = new AudioContext();
      await context.resume();
      const [tone, volume, syllables, depth] = [context.createOscillator(), context.createGain(), context.createOscillator(), context.createGain()];
      const to = context.createMediaStreamDestination();
      [tone.type, tone.frequency.value, volume.gain.value] = ['sawtooth', 180, 0.25];
      [syllables.frequency.value, depth.gain.value] = [4, 0.2];
      syllables.connect(depth).connect(volume.gain);
      tone.connect(volume).connect(to);
      tone.start();
      syllables.start();
      return to.stream;
    };
  });
}

/** Frames that each encoding of the own camera sent, by its name. */
export async function sentByLayer() {
  const publication = [...window.chappe.room.localParticipant.videoTrackPublications.values()].find((one) => one.source === 'camera');
  const report = await publication?.track?.getRTCStatsReport();
  const frames = {};
  report?.forEach((entry) => {
    if (entry.type === 'outbound-rtp') frames[entry.rid ?? ''] = { frames: entry.framesSent ?? 0, bytes: entry.bytesSent, width: entry.frameWidth ?? 0 };
  });
  return frames;
}

/** The encodings of the own camera: codec, name and scalability mode of each, as the browser's statistics have them. */
export async function sentEncodings() {
  const publication = [...window.chappe.room.localParticipant.videoTrackPublications.values()].find((one) => one.source === 'camera');
  const report = await publication?.track?.getRTCStatsReport();
  const entries = [...(report?.values() ?? [])];
  const codecs = new Map(entries.filter((entry) => entry.type === 'codec').map((entry) => [entry.id, entry.mimeType]));
  return entries.filter((entry) => entry.type === 'outbound-rtp' && entry.kind === 'video')
    .map((entry) => ({ codec: codecs.get(entry.codecId) ?? '', rid: entry.rid ?? '', mode: entry.scalabilityMode ?? '', frames: entry.framesSent ?? 0 }));
}
