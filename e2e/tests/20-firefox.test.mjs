// Chromium, Chromium and Firefox in one room: each sees and hears the two others.

import { test } from 'node:test';

import { Person } from '../lib/browser.mjs';
import { meeting } from '../lib/fixture.mjs';

const context = meeting({ browsers: ['chrome', 'firefox'] });

for (const [label, query] of [['one PeerConnection', {}], ['two PeerConnections', { two: '1' }]]) {
  test(`two Chromium and a Firefox over ${label}`, { timeout: 180_000 }, async () => {
    const room = `three-${query.two ?? 'one'}`;
    const people = [];
    for (const [browser, name] of [['chrome', 'ada'], ['firefox', 'bob'], ['chrome', 'cleo']]) {
      const person = await Person.open(context[browser], context.server, room, name, query);
      people.push(await person.joined());
    }
    await Promise.all(people.flatMap((person) =>
      people.filter((other) => other !== person).map((other) => person.seesAndHears(other.name))));
    await people[0].screenshot(`three-${query.two ? 'two' : 'one'}`);
    for (const person of people) await person.close();
  });
}
