// The npm package ws holds a conversation: chat.js URL TOKEN OTHER-URL OTHER-TOKEN ROOM, where the room has both users and
// nothing was said in it. It ends with 0 where everything is as it should be.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import WebSocket from 'ws'

const [url, token, otherURL, otherToken, room] = process.argv.slice(2)

// Somebody in a room, who keeps what came and looks through it for what is waited for.
class Speaker extends WebSocket {
  frames = []
  refs = 0

  constructor(url, token, query = '') {
    super(`${url.replace('http', 'ws')}/v2/realtime/stream${query}`, { headers: { Authorization: `Bearer ${token}` } })
    this.on('message', (text) => {
      const frame = JSON.parse(text)
      this.frames.push(...(frame.type === 'batch' ? frame.events.map((event) => ({ type: 'event', event })) : [frame]))
      this.emit('frame')
    })
  }

  async find(is) {
    for (;;) {
      const at = this.frames.findIndex(is)
      if (at >= 0) return this.frames.splice(at, 1)[0]
      await once(this, 'frame')
    }
  }

  message = async (seq) => (await this.find(({ event }) => event?.type === 'message_created' && event.data.seq === seq)).event

  async ask(type, fields) {
    const ref = String(++this.refs)
    this.send(JSON.stringify({ type, room, ref, ...fields }))
    return this.find((frame) => frame.ref === ref)
  }
}

const alice = new Speaker(url, token)
await once(alice, 'open')
alice.send(JSON.stringify({ services: ['chat'], version: 1 }))
const ack = await alice.find(({ type }) => type === 'ack')
assert.deepEqual(ack.services, ['chat'])
const bob = new Speaker(otherURL, otherToken, `?services=chat&rooms=${encodeURIComponent(room)}`)
await bob.find(({ type }) => type === 'ack')
const came = await alice.find(({ type, userId }) => type === 'presence' && userId === 'bob')
assert.equal(came.status, 'online')

const text = 'Grüße 😀 </script> \u2028'
const sent = await alice.ask('send', { clientId: 'first', text })
assert.equal(sent.type, 'ok')
assert.deepEqual([sent.result.seq, sent.result.userId, sent.result.text], [1, 'alice', text])
const again = await alice.ask('send', { clientId: 'first', text })
assert.equal(again.result.seq, 1)
const heard = await bob.message(1)
assert.deepEqual([heard.userId, heard.entityId, heard.data.text, heard.data.clientId], ['alice', room, text, 'first'])
assert.equal((await alice.message(1)).id, heard.id)

assert.equal((await bob.ask('typing')).type, 'ok')
await alice.find(({ type, userId, displayName }) => type === 'typing' && userId === 'bob' && displayName === 'The bob')

// Requests without a ref are answered by what happens alone.
for (let n = 2; n <= 10; n++) bob.send(JSON.stringify({ type: 'send', room, clientId: `b${n}`, text: `${n}` }))
for (let n = 2; n <= 10; n++) assert.equal((await alice.message(n)).data.text, `${n}`)
const page = await alice.ask('history', { limit: 4, before: 5 })
assert.deepEqual(page.result.messages.map(({ seq }) => seq), [1, 2, 3, 4])
assert.equal(page.result.hasMore, false)
assert.equal((await alice.ask('read', { seq: 10 })).type, 'ok')
const read = await bob.find(({ event }) => event?.type === 'read')
assert.deepEqual([read.event.data.seq, read.event.data.userId], [10, 'alice'])
assert.equal((await alice.ask('presence', { status: 'away' })).type, 'ok')
await bob.find(({ type, userId, status }) => type === 'presence' && userId === 'alice' && status === 'away')

// A stream may be narrowed and widened while it is open.
const narrowed = await alice.ask('subscribe', { room: undefined, services: ['chat'], rooms: ['nowhere'] })
assert.deepEqual([narrowed.type, narrowed.status], ['problem', 404])
alice.send(JSON.stringify({ type: 'subscribe', services: ['chat'], rooms: [room] }))
assert.deepEqual((await alice.find(({ type }) => type === 'ack')).services, ['chat'])

// What is refused ends nothing.
const refused = await alice.ask('send', { room: 'nowhere', clientId: 'x', text: 'x' })
assert.deepEqual([refused.type, refused.status], ['problem', 404])
const empty = await alice.ask('send', { clientId: 'y', text: '' })
assert.deepEqual([empty.type, empty.status], ['problem', 400])
const flood = await Promise.all(Array.from({ length: 100 }, (_, n) => alice.ask('send', { clientId: `flood${n}`, text: 'x' })))
const statuses = flood.map(({ type, status }) => (type === 'ok' ? 200 : status))
assert.ok(statuses.includes(429) && statuses.filter((one) => one === 200).length >= 15, `${statuses}`)
assert.ok(statuses.every((one) => one === 200 || one === 429), `${statuses}`)
await bob.message(10 + statuses.filter((one) => one === 200).length)

for (const one of [alice, bob]) {
  one.close(1000, 'bye')
  const [code] = await once(one, 'close')
  assert.equal(code, 1000)
}
