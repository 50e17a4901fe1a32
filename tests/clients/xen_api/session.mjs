// A session of Xen Orchestra's connector with a pool: each thing that test_xen_api.py asks about, and one JSON line of what
// was seen. Arguments: the pool's URL, and the URL of a host that is not its master.

import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'
import { createClient } from 'xen-api'

const [, , url, slaveUrl] = process.argv
const seen = {}

const connect = async (url, watchEvents = true) => {
  const xapi = createClient({ url, auth: { user: 'root', password: 'root' }, allowUnauthorized: true, watchEvents })
  await xapi.connect()
  return xapi
}

const digest = async stream => {
  const hash = createHash('sha256')
  let length = 0
  for await (const chunk of stream) {
    hash.update(chunk)
    length += chunk.length
  }
  return { length, sha256: hash.digest('hex') }
}

const xapi = await connect(url)
await xapi.objectsFetched
const objects = Object.values(xapi.objects.all)
seen.types = [...new Set(objects.map(object => object.$type))].sort()
seen.hosts = objects.filter(object => object.$type === 'host').length
seen.pool = xapi.pool.name_label

const byName = (type, name) => Object.values(xapi.objects.all).find(o => o.$type === type && o.name_label === name)
const sr = byName('SR', 'Local storage on pool1-h2')
const shared = byName('SR', 'Shared storage')

// A VM by calls, seen by events.
const template = byName('VM', 'Alpine Linux 3')
const vmRef = await xapi.callAsync('VM.clone', template.$ref, 'from xen-api')
await xapi.callAsync('VM.provision', vmRef)
const vm = await xapi.barrier(vmRef)
seen.cloned = { name: vm.name_label, template: vm.is_a_template, disks: vm.VBDs.length }
await xapi.callAsync('VM.start', vmRef, false, false)
seen.started = (await xapi.barrier(vmRef)).power_state
await vm.set_name_label('renamed')
seen.renamed = (await xapi.barrier(vmRef)).name_label
await vm.update_other_config('color', 'blue')
seen.color = (await xapi.barrier(vmRef)).other_config.color
await xapi.callAsync('VM.hard_shutdown', vmRef)
seen.stopped = (await xapi.barrier(vmRef)).power_state

// Failures keep their codes.
seen.failure = await xapi.call('VM.unpause', vmRef).then(
  () => 'none',
  error => error.code
)
seen.taskFailure = await xapi.callAsync('VM.pause', vmRef).then(
  () => 'none',
  error => error.code
)

// Disks: to a host's own SR, which the master does not reach, and to the shared one; from a buffer and from a stream.
const size = 8 << 20
const data = Buffer.alloc(3 << 20)
for (let i = 0; i < data.length; ++i) data[i] = (i * 7919) & 0xff
const expected = Buffer.concat([data, Buffer.alloc(size - data.length)])
seen.expected = createHash('sha256').update(expected).digest('hex')
seen.disks = []
for (const [name, target, asStream] of [
  ['shared', shared, false],
  ['local', sr, false],
  ['local stream', sr, true],
]) {
  const vdi = await xapi.call('VDI.create', {
    name_label: name, name_description: '', SR: target.$ref, virtual_size: size, type: 'user',
    sharable: false, read_only: false, other_config: {}, xenstore_data: {}, sm_config: {}, tags: [],
  })
  const task = await xapi.call('task.create', name, '')
  const query = { format: 'raw', vdi }
  let body = data
  if (asStream) {
    body = Readable.from([data.subarray(0, 1 << 20), data.subarray(1 << 20)])
    body.length = data.length
  }
  await xapi.putResource(body, '/import_raw_vdi/', { query, task })
  const response = await xapi.getResource('/export_raw_vdi/', { query, task: await xapi.call('task.create', 'out', '') })
  seen.disks.push({ name, ...(await digest(response.body)) })
}

// A host that is not the master sends the connector to the one that is.
const viaSlave = await connect(slaveUrl, false)
seen.viaSlave = (await viaSlave.call('pool.get_all')).length
await viaSlave.disconnect()

// What is gone goes from the collection.
await xapi.callAsync('VM.destroy', vmRef)
await xapi.barrier()
seen.gone = xapi.getObject(vmRef, null) === null

await xapi.disconnect()
console.log(JSON.stringify(seen))
process.exit(0)
