// The round trips of npm's fhir-kit-client 2, in its own language: node fhir_kit_client.mjs BASE TOKEN.
// Prints {"passed": [names], "failed": [{name, why}]}.
import { strict as assert } from 'node:assert';
import { Client, CapabilityTool } from 'fhir-kit-client';

const [baseUrl, bearerToken] = process.argv.slice(2);
const client = new Client({ baseUrl, bearerToken });
const passed = [];
const failed = [];
const LOINC = 'http://loinc.org';
const kept = {};

async function step(name, run) {
  try {
    await run();
    passed.push(name);
  } catch (error) {
    failed.push({ name, why: `${error.message} ${JSON.stringify(error.response?.data ?? '').slice(0, 500)}` });
  }
}

const weight = (value) => ({
  resourceType: 'Observation',
  status: 'final',
  code: { coding: [{ system: LOINC, code: '29463-7' }] },
  subject: { reference: `Patient/${kept.ida.id}` },
  valueQuantity: { value, unit: 'kg', system: 'http://unitsofmeasure.org', code: 'kg' },
});

await step('capability statement', async () => {
  const tool = new CapabilityTool(await client.capabilityStatement());
  assert(tool.serverCan('transaction'));
  assert(tool.resourceCan('Patient', 'read'));
  assert(tool.resourceSearch('Patient', 'birthdate'));
});
await step('SMART metadata', async () => {
  const found = await client.smartAuthMetadata();
  assert(found.tokenUrl.href.endsWith('/oauth2/token'));
  assert(found.authorizeUrl.href.endsWith('/oauth2/authorize'));
});
await step('create', async () => {
  const body = { resourceType: 'Patient', name: [{ family: 'Adler', given: ['Ida'] }] };
  kept.ida = await client.create({ resourceType: 'Patient', body });
  const { response } = Client.httpFor(kept.ida);
  assert.equal(response.status, 201);
  assert(response.headers.get('location').endsWith(`/Patient/${kept.ida.id}/_history/1`));
});
await step('read', async () => {
  const read = await client.read({ resourceType: 'Patient', id: kept.ida.id });
  assert.deepEqual(read, kept.ida);
});
await step('update', async () => {
  const body = { ...kept.ida, gender: 'female' };
  const updated = await client.update({ resourceType: 'Patient', id: kept.ida.id, body });
  assert.equal(updated.meta.versionId, '2');
});
await step('update only the version that was read', async () => {
  const options = { headers: { 'If-Match': 'W/"1"' } };
  const body = { ...kept.ida, gender: 'male' };
  const late = client.update({ resourceType: 'Patient', id: kept.ida.id, body, options });
  await assert.rejects(late, (error) => error.response.status === 412);
});
await step('patch', async () => {
  const jsonPatch = [{ op: 'add', path: '/active', value: true }];
  const patched = await client.patch({ resourceType: 'Patient', id: kept.ida.id, jsonPatch });
  assert.equal(patched.active, true);
});
await step('read a version', async () => {
  const first = await client.vread({ resourceType: 'Patient', id: kept.ida.id, version: '1' });
  assert.equal(first.gender, undefined);
});
await step('history of an instance, a type, the system', async () => {
  const instance = await client.history({ resourceType: 'Patient', id: kept.ida.id });
  assert.equal(instance.entry.length, 3);
  assert.equal((await client.history({ resourceType: 'Patient' })).type, 'history');
  assert.equal((await client.history()).type, 'history');
});
await step('transaction', async () => {
  const entry = [60, 61, 62, 63, 64].map((value) => ({
    resource: weight(value),
    request: { method: 'POST', url: 'Observation' },
  }));
  const body = { resourceType: 'Bundle', type: 'transaction', entry };
  const answer = await client.transaction({ body });
  assert.equal(answer.entry.filter((each) => each.response.status.startsWith('201')).length, 5);
});
await step('batch', async () => {
  const entry = ['Patient?_count=1', 'Patient/never-was'].map((url) => ({ request: { method: 'GET', url } }));
  const answer = await client.batch({ body: { resourceType: 'Bundle', type: 'batch', entry } });
  assert.deepEqual(answer.entry.map((each) => each.response.status.slice(0, 3)), ['200', '404']);
});
await step('search with an include', async () => {
  const searchParams = { code: `${LOINC}|29463-7`, _include: 'Observation:subject', 'patient.family': 'adler' };
  const found = await client.search({ resourceType: 'Observation', searchParams });
  assert.equal(found.entry.length, 6);
});
await step('search by POST', async () => {
  const searchParams = { code: '29463-7', 'value-quantity': ['ge62', 'lt64'] };
  const found = await client.search({ resourceType: 'Observation', searchParams, options: { postSearch: true } });
  assert.deepEqual(found.entry.map((each) => each.resource.valueQuantity.value).sort(), [62, 63]);
});
await step('search of a compartment', async () => {
  const compartment = { resourceType: 'Patient', id: kept.ida.id };
  assert.equal((await client.search({ resourceType: 'Observation', compartment })).entry.length, 5);
});
await step('search of the system', async () => {
  const found = await client.search({ searchParams: { _type: 'Patient,Observation', _count: '50' } });
  assert.equal(found.entry.length, 6);
});
await step('pages, forward and back', async () => {
  const searchParams = { _count: '2', _sort: 'value-quantity' };
  const first = await client.search({ resourceType: 'Observation', searchParams });
  const second = await client.nextPage({ bundle: first });
  const third = await client.nextPage({ bundle: second });
  assert.equal(client.nextPage({ bundle: third }), undefined);
  const back = await client.prevPage({ bundle: second });
  const ids = (bundle) => bundle.entry.map((each) => each.resource.id);
  assert.deepEqual(ids(back), ids(first));
  assert.equal(new Set([...ids(first), ...ids(second), ...ids(third)]).size, 5);
});
await step('resolve a reference', async () => {
  const found = await client.search({ resourceType: 'Observation', searchParams: { _count: '1' } });
  const context = found.entry[0].resource;
  const patient = await client.resolve({ reference: context.subject.reference, context });
  assert.equal(patient.id, kept.ida.id);
});
await step('operations', async () => {
  const all = await client.operation({ name: 'everything', resourceType: 'Patient', id: kept.ida.id, method: 'GET' });
  assert.equal(all.entry.length, 6);
  const input = { resourceType: 'Patient', gender: 'blue' };
  const said = await client.operation({ name: 'validate', resourceType: 'Patient', input });
  assert.equal(said.issue[0].severity, 'error');
});
await step('conditional update', async () => {
  const body = { resourceType: 'Patient', identifier: [{ system: 'urn:test', value: '7' }] };
  const searchParams = { identifier: 'urn:test|7' };
  const made = await client.update({ resourceType: 'Patient', searchParams, body });
  const again = await client.update({ resourceType: 'Patient', searchParams, body: { ...body, active: true } });
  assert.equal(made.id, again.id);
});
await step('delete', async () => {
  const found = await client.search({ resourceType: 'Observation', searchParams: { _count: '1' } });
  const { id } = found.entry[0].resource;
  await client.delete({ resourceType: 'Observation', id });
  const gone = client.read({ resourceType: 'Observation', id });
  await assert.rejects(gone, (error) => error.response.status === 410);
});
await step('a refusal says why', async () => {
  const wrong = client.create({ resourceType: 'Patient', body: { resourceType: 'Patient', gender: 'blue' } });
  await assert.rejects(wrong, (error) => error.response.data.issue[0].expression[0] === 'Patient.gender');
});

console.log(JSON.stringify({ passed, failed }));
