//! Admin API: what operators and their scripts ask of a control server.
//!
//! HTTP/1.1 with JSON below [`BASE_PATH`], on the server's admin socket and, with an API key in
//! `Authorization: Bearer`, on its public port. Paths, field names and the habit of writing
//! ids as decimal text are the matching part of headscale's REST v1, so that scripts move over; what only our server
//! knows has a path or field of its own, marked "ours". An error is `application/problem+json` ([`Problem`]).
//! A request may write `disable_expiry` for `disableExpiry`, 1 for `"1"` and null for nothing; a key that means nothing is
//! refused by name.
//!
//! | method and path | asks for | answers |
//! |---|---|---|
//! | GET `health` | – | [`Health`] |
//! | GET `user?id=&name=&email=` | – | `{users}` |
//! | POST `user` | [`CreateUser`] | `{user}` |
//! | POST `user/{id}/rename/{name}` | – | `{user}` |
//! | POST `user/{id}/role` (ours) | [`SetRole`] | `{user}` |
//! | DELETE `user/{id}?force=true` (`force` is ours: with their nodes) | – | `{}` |
//! | GET `node?user=` · GET `node/{id}` | – | `{nodes}` · `{node}` |
//! | DELETE `node/{id}` | – | `{}` |
//! | POST `node/backfillips?confirmed=true` | – | `{changes}`: one line each |
//! | POST `node/{id}/expire?expiry=&disableExpiry=` | [`ExpireNode`], here or in the query | `{node}` |
//! | POST `node/{id}/rename/{name}` | – | `{node}` |
//! | POST `node/{id}/tags` · `node/{id}/approve_routes` | [`SetTags`] · [`ApproveRoutes`] | `{node}` |
//! | POST `node/{id}/user` (ours) · `node/{id}/endpoints` (ours) | [`MoveNode`] · [`HideEndpoints`] | `{node}` |
//! | GET `node/{id}/attributes` · POST, DELETE `node/{id}/attributes/{name}` (as the hosted API below `device/`) | – · [`SetAttribute`], – | [`NodeAttributes`] |
//! | POST `node/{id}/ping` (ours) | – | [`SignOfLife`] |
//! | POST `node/{id}/c2n` (ours) | [`AskNode`] | [`NodeSaid`] |
//! | POST `node/{id}/authorized` (ours) | [`SetAuthorized`] | `{node}` |
//! | GET `preauthkey` | – | `{preAuthKeys}` |
//! | POST `preauthkey` | [`CreateKey`] | `{preAuthKey}`: the only answer that has the whole key |
//! | POST `preauthkey/expire` · DELETE `preauthkey?id=` | [`ExpireKey`] · – | `{}` |
//! | GET `apikey` | – | `{apiKeys}` |
//! | POST `apikey` | [`CreateApiKey`] | [`NewApiKey`]: the only answer that has the whole key |
//! | POST `apikey/expire` · DELETE `apikey/{prefix}?id=` | [`ExpireApiKey`] · – | `{}` |
//! | GET `policy` · PUT `policy` · POST `policy/check` | – · [`SetPolicy`] · [`SetPolicy`] | [`Policy`] · [`Policy`] · [`PolicyCheck`] |
//! | GET `service` · GET `service/{svc:name}` (ours) | – | `{vipServices}` · `{service}` |
//! | POST `service` · PUT `service/{svc:name}` (ours) | [`CreateService`] · [`ChangeService`] | `{service}` |
//! | DELETE `service/{svc:name}` (ours) | – | `{}` |
//! | GET `service/{svc:name}/hosts` (ours) | – | `{hosts}` |
//! | POST `service/{svc:name}/hosts/{node id}` (ours) | [`SetApproved`] | `{service}` |
//! | GET `auth` (ours) | – | `{waiting}` |
//! | POST `auth/register` | [`RegisterMachine`] | `{node}` |
//! | POST `auth/approve` · `auth/reject` | [`AuthRequest`] | `{}` |

mod client;
mod shapes;

pub use client::{AdminError, Client, Exchange, Exchanging, NotAnApiKey};
pub use shapes::{
    ApiKey, ApiKeysAnswer, ApproveRoutes, AskNode, AuthRequest, ChangeService, ChangesAnswer, CreateApiKey, CreateKey,
    CreateService, CreateUser, ExpireApiKey, ExpireKey, ExpireNode, Health, HideEndpoints, HostsAnswer, KeyAnswer,
    KeysAnswer, MoveNode, NewApiKey, Node, NodeAnswer, NodeAttributes, NodeSaid, NodesAnswer, Nothing, Policy,
    PolicyCheck, PreAuthKey, Problem, RegisterMachine, Service, ServiceAnswer, ServiceHost, ServicesAnswer,
    SetApproved, SetAttribute, SetAuthorized, SetPolicy, SetRole, SetTags, SignOfLife, User, UserAnswer, UsersAnswer,
    WaitingAnswer, WaitingMachine,
};

/// Prefix of every path of this contract.
pub const BASE_PATH: &str = "/api/v1/";

/// The `Host` that our client names; the server accepts no other on its socket (nor one from a web page).
pub const HOST: &str = "local-warren-control.sock";
