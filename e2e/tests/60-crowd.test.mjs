// Eight people in one room, each sees the seven others.

import { test } from 'node:test';

import { Person } from '../lib/browser.mjs';
import { meeting } from '../lib/fixture.mjs';

const context = meeting();

// Two cores encode eight pictures and decode 56 then: it takes its time.
test('eight participants at once', { timeout: 420_000 }, async () => {
  const names = ['ada', 'bob', 'cleo', 'dan', 'eve', 'finn', 'gus', 'hal'];
  const people = [];
  for (const name of names) {
    people.push(await (await Person.open(context.chrome, context.server, 'crowd', name, { simulcast: '0' })).joined(60_000));
  }
  await Promise.all(people.flatMap((person) => people.filter((other) => other !== person)
    .map((other) => person.seesAndHears(other.name, { frames: 3, timeout: 240_000 }))));
  await people[0].screenshot('crowd');
  for (const person of people) await person.close();
});
