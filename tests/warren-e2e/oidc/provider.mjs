// A real identity provider for one test: oidc-provider, with its own sign-in pages.
//
//   node provider.mjs PORT REDIRECT ACCOUNTS KEYS
//
// ACCOUNTS is a JSON file {"<login>": {claims}}, read anew for every question, so that a test can change and remove
// people while it runs. KEYS is a number: another one is another set of signing keys.
import { createHash, generateKeyPairSync } from 'node:crypto';
import { readFileSync, writeFileSync, existsSync } from 'node:fs';
import { Provider } from 'oidc-provider';

const [port, redirect, accounts, keys] = process.argv.slice(2);
const issuer = `http://127.0.0.1:${port}`;

// The keys of a number stay the same over restarts.
const file = `${accounts}.keys-${keys}`;
if (!existsSync(file)) {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const jwk = privateKey.export({ format: 'jwk' });
  const kid = createHash('sha256').update(jwk.n).digest('hex').slice(0, 8);
  writeFileSync(file, JSON.stringify({ keys: [{ ...jwk, kid, use: 'sig', alg: 'RS256' }] }));
}

const provider = new Provider(issuer, {
  jwks: JSON.parse(readFileSync(file, 'utf8')),
  clients: [
    {
      client_id: 'warren',
      client_secret: 'e2e-client-secret',
      redirect_uris: [redirect],
      grant_types: ['authorization_code', 'refresh_token'],
      response_types: ['code'],
    },
  ],
  claims: {
    openid: ['sub'],
    email: ['email', 'email_verified'],
    profile: ['name', 'preferred_username', 'groups'],
  },
  cookies: { keys: ['only for a test'] },
  pkce: { required: () => true },
  findAccount: async (_context, login) => {
    const claims = JSON.parse(readFileSync(accounts, 'utf8'))[login];
    return claims && { accountId: login, claims: async () => ({ sub: login, ...claims }) };
  },
});

provider.listen(Number(port), '127.0.0.1', () => console.log(`listening at ${issuer}`));
