//! The JSON of the admin API. Every field that a client may leave out has a default. Unknown fields of an
//! answer are ignored; those of a request are refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use warren_crypto::UnixTime;

/// Whether the server works.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Health {
    /// Whether the database takes writes.
    pub database_connectivity: bool,
    /// What works but should be looked at, one line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A person.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    /// Decimal number.
    pub id: String,
    /// Short name, unique.
    pub name: String,
    /// When the record was made.
    pub created_at: Option<UnixTime>,
    /// What people read; may be empty.
    pub display_name: String,
    /// May be empty.
    pub email: String,
    /// The identity provider's own name for the person; empty for people made here.
    pub provider_id: String,
    /// Who vouches for the person; `local` for people made here.
    pub provider: String,
    /// URL of a picture; may be empty.
    pub profile_pic_url: String,
    /// Ours: `owner`, `admin`, `it-admin`, `network-admin`, `billing-admin`, `auditor` or `member`; empty is `member`.
    pub role: String,
    /// Ours: the name is what the person chose at the provider, so no policy can mean them by it.
    pub self_named: bool,
    /// Ours: groups that the provider claims for the person, by its own names; a policy writes `group:NAME@oidc`. Only
    /// where people are asked for, not in the `user` of a node or key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}

impl User {
    /// Why an operator who says this name does not mean this person by it, if they chose it themselves: whoever came first
    /// has it, and it need not be the one whom everybody knows by it.
    pub fn not_meant_by_name(&self) -> Option<String> {
        let Self { id, name, .. } = self;
        self.self_named.then(|| {
            format!(
                "user {id} chose the name {name} at the identity provider and need not be the one you mean; if they are, say \
                 {id} instead, or give them the name first: warren control users rename {id} {name}"
            )
        })
    }
}

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Node {
    /// Decimal number.
    pub id: String,
    /// `mkey:` and hex.
    pub machine_key: String,
    /// `nodekey:` and hex.
    pub node_key: String,
    /// `discokey:` and hex; empty before the node said one.
    pub disco_key: String,
    /// IPv4 first.
    pub ip_addresses: Vec<String>,
    /// The machine's own host name.
    pub name: String,
    /// The owner. For a tagged node the pseudo user `tagged-devices`.
    pub user: User,
    /// When it was last connected; `None` before the first time.
    pub last_seen: Option<UnixTime>,
    /// When its key expires; `None` is never.
    pub expiry: Option<UnixTime>,
    /// The key that it joined with, secret left out.
    pub pre_auth_key: Option<PreAuthKey>,
    /// When it registered first.
    pub created_at: Option<UnixTime>,
    /// `REGISTER_METHOD_AUTH_KEY` or `REGISTER_METHOD_CLI`.
    pub register_method: String,
    /// First label of its name in the network.
    pub given_name: String,
    /// Whether its map stream is open.
    pub online: bool,
    /// Prefixes that an operator approved.
    pub approved_routes: Vec<String>,
    /// Prefixes that the node announces.
    pub available_routes: Vec<String>,
    /// Prefixes that the node serves now: of both of the above those for which it was elected, and default routes.
    pub subnet_routes: Vec<String>,
    /// Each `tag:` and a name.
    pub tags: Vec<String>,
    /// Ours: whether its key has expired.
    pub expired: bool,
    /// Ours: whether it goes when it has been away for a while.
    pub ephemeral: bool,
    /// Ours: whether peers are not told its underlay addresses.
    pub hides_endpoints: bool,
    /// Ours: whether two machines use its keys at once.
    pub doubled: bool,
    /// Ours: whether it has been let into the network; false while it waits for an operator.
    pub authorized: bool,
}

/// A key that lets machines join.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PreAuthKey {
    /// Whose the nodes will be; `None` for a key that only gives tags.
    pub user: Option<User>,
    /// Decimal number.
    pub id: String,
    /// The text for `--auth-key`, once, in the answer to its creation; else with `***` for the secret part.
    pub key: String,
    /// Good for more than one machine.
    pub reusable: bool,
    /// Nodes go when they have been away for a while.
    pub ephemeral: bool,
    /// Ours: nodes need no approval where the server asks for one.
    pub pre_approved: bool,
    /// At least one machine has joined with it.
    pub used: bool,
    /// `None` is never.
    pub expiration: Option<UnixTime>,
    /// When it was made.
    pub created_at: Option<UnixTime>,
    /// Tags of the nodes.
    pub acl_tags: Vec<String>,
}

/// Ours: something that the network offers at addresses of its own. Fields as in the field's own API.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    /// `svc:` and a DNS label.
    pub name: String,
    /// IPv4 first.
    pub addrs: Vec<String>,
    /// Where it listens: `tcp:443`, `8000-8099`, `*`.
    pub ports: Vec<String>,
    /// May be empty.
    pub comment: String,
    /// Roles by which `autoApprovers.services` may name it.
    pub tags: Vec<String>,
    /// When it was made.
    pub created_at: Option<UnixTime>,
    /// Those that may answer there, and those that would.
    pub hosts: Vec<ServiceHost>,
}

/// Ours: a node as host of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceHost {
    /// Decimal number.
    pub node_id: String,
    /// First label of its name in the network.
    pub name: String,
    /// An operator or the policy lets it.
    pub approved: bool,
    /// The node would answer.
    pub offered: bool,
    /// Where, as it says.
    pub ports: Vec<String>,
    /// Whether it is connected.
    pub online: bool,
    /// It is the one that answers now.
    pub answers: bool,
}

/// Who may reach whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    /// HuJSON; empty when there is none, and then everyone reaches everyone.
    pub policy: String,
    /// When it came into force.
    pub updated_at: Option<UnixTime>,
    /// Ours: what has no effect yet and what means nobody, one line each; only in the answer to a change.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Ours: what there is to say about a policy that would be accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyCheck {
    /// What has no effect yet and what means nobody, one line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Ours: a machine that waits to be let in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WaitingMachine {
    /// What `auth/register` asks for.
    pub auth_id: String,
    /// Its host name, as it says.
    pub hostname: String,
    /// Its operating system, as it says.
    pub os: String,
    /// `mkey:` and hex, proven.
    pub machine_key: String,
    /// Since when it waits.
    pub since: Option<UnixTime>,
}

/// What went wrong, for a program and for a person (RFC 9457).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// The HTTP status's own words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// One sentence.
    pub detail: String,
}

/// Wish for a person.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CreateUser {
    /// Short name, unique.
    pub name: String,
    /// May be empty.
    pub display_name: String,
    /// May be empty.
    pub email: String,
    /// May be empty.
    pub picture_url: String,
}

/// Ours: what somebody is from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SetRole {
    /// As in [`User::role`], but not empty.
    pub role: String,
}

/// Ours: wish for a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CreateService {
    /// With or without `svc:`.
    pub name: String,
    /// As in [`Service::ports`].
    pub ports: Vec<String>,
    /// May be empty.
    pub comment: String,
    /// As in [`Service::tags`].
    pub tags: Vec<String>,
}

/// Ours: what of a service is to change; what is not said stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ChangeService {
    /// As in [`Service::ports`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<String>>,
    /// May be empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// As in [`Service::tags`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
}

/// Ours: lets a node be a host of a service, or no longer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetApproved {
    /// It may.
    pub approved: bool,
}

/// Wish for a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CreateKey {
    /// Decimal id or (ours) name; empty for a key that only gives tags.
    pub user: String,
    /// Good for more than one machine.
    pub reusable: bool,
    /// Nodes go when they have been away for a while.
    pub ephemeral: bool,
    /// Ours: nodes need no approval where the server asks for one.
    pub pre_approved: bool,
    /// `None` is never.
    pub expiration: Option<UnixTime>,
    /// Tags of the nodes.
    pub acl_tags: Vec<String>,
}

/// A key for this API, without its secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ApiKey {
    /// Decimal number.
    pub id: String,
    /// `wkey-api-<12 hex digits>-***`; the digits name the key.
    pub prefix: String,
    /// When it stops.
    pub expiration: Option<UnixTime>,
    /// When it was made.
    pub created_at: Option<UnixTime>,
    /// When it was used last, to some minutes.
    pub last_seen: Option<UnixTime>,
    /// Ours: what it may do: `all`, `read`, or nouns that it may read and change (`users`, `nodes`, `keys`, `policy`,
    /// `services`, `auth`).
    pub scopes: Vec<String>,
}

/// Wish for an API key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CreateApiKey {
    /// `None` is in 90 days.
    pub expiration: Option<UnixTime>,
    /// Ours: as in [`ApiKey::scopes`]; none is `all`.
    pub scopes: Vec<String>,
}

/// `{apiKey}`: the whole text of a new API key, this once. It does not print by accident.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NewApiKey {
    /// For `Authorization: Bearer`.
    pub api_key: String,
}

impl std::fmt::Debug for NewApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NewApiKey(..)")
    }
}

/// Ends an API key, by one or the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ExpireApiKey {
    /// As in [`ApiKey::prefix`], or the digits alone.
    pub prefix: String,
    /// Decimal number.
    pub id: String,
}

/// Ends a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExpireKey {
    /// Decimal number.
    pub id: String,
}

/// When a node's key expires: at once if nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ExpireNode {
    /// A time, past or future.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiry: Option<UnixTime>,
    /// Never.
    pub disable_expiry: bool,
}

/// The whole set of tags.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SetTags {
    /// Each `tag:` and a name.
    pub tags: Vec<String>,
}

/// The whole set of approved routes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApproveRoutes {
    /// Prefixes.
    pub routes: Vec<String>,
}

/// Ours: whose the node is from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MoveNode {
    /// Name or decimal id.
    pub user: String,
}

/// Ours: whether peers are told where the node is in the underlay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HideEndpoints {
    /// They are not.
    pub hide: bool,
}

/// Facts about a node that the policy's postures may ask for. The shape of the hosted API's `device/{id}/attributes`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeAttributes {
    /// By name: a text, a number or a truth value.
    pub attributes: BTreeMap<String, serde_json::Value>,
    /// When those go by themselves that do.
    pub expiries: BTreeMap<String, UnixTime>,
    /// Ours: of those whose names begin with `custom:`, `operator` or `node`.
    pub set_by: BTreeMap<String, String>,
}

/// One fact about a node. The shape of the hosted API's `device/{id}/attributes/{name}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct SetAttribute {
    /// A text, a number or a truth value.
    pub value: serde_json::Value,
    /// When it goes by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiry: Option<UnixTime>,
    /// Why, for the audit table.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub comment: String,
}

/// Ours: a node answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SignOfLife {
    /// From the question to the answer.
    pub seconds: f64,
}

/// Ours: a question to a node's own c2n service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AskNode {
    /// `GET` if empty.
    pub method: String,
    /// Such as `/echo` or `/debug/health`.
    pub path: String,
    /// Of the request.
    pub body: String,
}

/// Ours: what a node said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeSaid {
    /// The whole HTTP/1 answer: status line, headers, body. Bytes that are no text are replaced.
    pub answer: String,
}

/// A policy to put in force or to check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SetPolicy {
    /// HuJSON.
    pub policy: String,
}

/// Lets a waiting machine in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RegisterMachine {
    /// Name or (ours) decimal id of the owner.
    pub user: String,
    /// From the page that the machine was sent to.
    pub auth_id: String,
}

/// Lets a node into the network, or keeps it out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetAuthorized {
    /// In, or out.
    pub authorized: bool,
}

/// Speaks of a waiting machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AuthRequest {
    /// From the page that the machine was sent to.
    pub auth_id: String,
}

macro_rules! answer {
    ($(#[$doc:meta])* $name:ident { $field:ident: $type:ty }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            /// What was asked for.
            pub $field: $type,
        }
    };
}

answer!(/// `{user}`
    UserAnswer { user: User });
answer!(/// `{users}`
    UsersAnswer { users: Vec<User> });
answer!(/// `{node}`
    NodeAnswer { node: Node });
answer!(/// `{nodes}`
    NodesAnswer { nodes: Vec<Node> });
answer!(/// `{changes}`: one line each
    ChangesAnswer { changes: Vec<String> });
answer!(/// `{preAuthKey}`
    KeyAnswer { pre_auth_key: PreAuthKey });
answer!(/// `{preAuthKeys}`
    KeysAnswer { pre_auth_keys: Vec<PreAuthKey> });
answer!(/// `{apiKeys}`
    ApiKeysAnswer { api_keys: Vec<ApiKey> });
answer!(/// `{service}`
    ServiceAnswer { service: Service });
answer!(/// `{vipServices}`
    ServicesAnswer { vip_services: Vec<Service> });
answer!(/// `{hosts}`
    HostsAnswer { hosts: Vec<ServiceHost> });
answer!(/// `{waiting}`
    WaitingAnswer { waiting: Vec<WaitingMachine> });

/// `{}`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nothing {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_named_as_headscale_names_them() {
        let key = PreAuthKey { id: "7".into(), acl_tags: vec!["tag:web".into()], ..PreAuthKey::default() };
        let json = serde_json::to_value(KeyAnswer { pre_auth_key: key }).expect("plain data");
        let key = &json["preAuthKey"];
        assert_eq!(key["id"], "7");
        assert_eq!(key["aclTags"][0], "tag:web");
        assert!(key["createdAt"].is_null());
        let node = serde_json::to_value(Node::default()).expect("plain data");
        for field in ["machineKey", "ipAddresses", "givenName", "registerMethod", "approvedRoutes", "preAuthKey"] {
            assert!(node.get(field).is_some(), "{field}");
        }
    }

    #[test]
    fn a_request_may_leave_out_what_it_does_not_mean() {
        let key: CreateKey =
            serde_json::from_str(r#"{"user":"1","expiration":"2026-01-01T00:00:00Z"}"#).expect("valid");
        assert_eq!(
            (key.user.as_str(), key.reusable, key.expiration),
            ("1", false, Some(UnixTime::from_secs(1_767_225_600)))
        );
        let expire: ExpireNode = serde_json::from_str("{}").expect("valid");
        assert_eq!(expire, ExpireNode::default());
    }
}
