//! What a request to the API needs, and whether the scopes of a key give it.
//!
//! [`needed`] is the only table of rights: a route that is not in it does not exist, on the admin socket neither, so a new
//! one cannot be forgotten here.

use std::collections::BTreeSet;
use std::fmt;

use warren_control::ApiScope;

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noun {
    Users,
    Nodes,
    Keys,
    Policy,
    Services,
    Auth,
    ApiKeys,
}

impl Noun {
    /// The scope that reads and changes it. Whoever makes API keys could give themselves any scope, so for that there
    /// is none.
    fn scope(self) -> Option<ApiScope> {
        match self {
            Self::Users => Some(ApiScope::Users),
            Self::Nodes => Some(ApiScope::Nodes),
            Self::Keys => Some(ApiScope::Keys),
            Self::Policy => Some(ApiScope::Policy),
            Self::Services => Some(ApiScope::Services),
            Self::Auth => Some(ApiScope::Auth),
            Self::ApiKeys => None,
        }
    }
}

/// What a caller needs for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Any scope.
    Nothing,
    /// To look.
    Read(Noun),
    /// To change something, or to make a device do something.
    Write(Noun),
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Read(noun) => write!(f, "read {noun:?}"),
            Self::Write(noun) => write!(f, "write {noun:?}"),
        }
    }
}

impl Need {
    /// Whether a key of these scopes may.
    pub(crate) fn is_met_by(self, scopes: &BTreeSet<ApiScope>) -> bool {
        let has = |scope: ApiScope| scopes.contains(&scope);
        let of = |noun: Noun| noun.scope().is_some_and(has);
        has(ApiScope::All)
            || match self {
                Self::Nothing => !scopes.is_empty(),
                Self::Read(noun) => has(ApiScope::Read) || of(noun),
                Self::Write(noun) => of(noun),
            }
    }
}

/// What a method on a path below the API's prefix needs; `None`: there is no such thing.
pub(crate) fn needed(method: &str, path: &[&str]) -> Option<Need> {
    use Need::{Nothing, Read, Write};
    use Noun::{ApiKeys, Auth, Keys, Nodes, Policy, Services, Users};
    Some(match (method, path) {
        ("GET", ["health"]) => Nothing,
        ("GET", ["user"]) => Read(Users),
        ("POST", ["user"] | ["user", _, "rename", _] | ["user", _, "role"]) | ("DELETE", ["user", _]) => Write(Users),
        ("GET", ["node"] | ["node", _] | ["node", _, "attributes"]) => Read(Nodes),
        ("POST", ["node", "backfillips"])
        | ("POST", ["node", _, "expire" | "tags" | "approve_routes" | "user" | "endpoints" | "authorized"])
        | ("POST", ["node", _, "ping" | "c2n"])
        | ("POST", ["node", _, "rename", _])
        | ("POST" | "DELETE", ["node", _, "attributes", _])
        | ("DELETE", ["node", _]) => Write(Nodes),
        ("GET", ["preauthkey"]) => Read(Keys),
        ("POST" | "DELETE", ["preauthkey"]) | ("POST", ["preauthkey", "expire"]) => Write(Keys),
        ("GET", ["apikey"]) => Read(ApiKeys),
        ("POST", ["apikey"] | ["apikey", "expire"]) | ("DELETE", ["apikey", _]) => Write(ApiKeys),
        ("GET", ["service"] | ["service", _] | ["service", _, "hosts"]) => Read(Services),
        ("POST", ["service"] | ["service", _, "hosts", _]) | ("PUT" | "DELETE", ["service", _]) => Write(Services),
        ("GET", ["policy"]) => Read(Policy),
        // A check changes nothing, but it can cost as much as a change.
        ("PUT", ["policy"]) | ("POST", ["policy", "check"]) => Write(Policy),
        ("GET", ["auth"]) => Read(Auth),
        ("POST", ["auth", "register" | "approve" | "reject"]) => Write(Auth),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use warren_api::admin::BASE_PATH;

    use super::*;
    use crate::rest::TABLE;

    const METHODS: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];

    /// Who may, beside a key of scope `all`; `any` is every key. Said once more, by whoever adds a route.
    const MAY: &str = "
        GET health: any
        GET user: read users
        POST user: users
        DELETE user/1: users
        POST user/1/rename/ann: users
        POST user/1/role: users
        GET node: read nodes
        POST node/backfillips: nodes
        GET node/1: read nodes
        DELETE node/1: nodes
        POST node/1/expire: nodes
        POST node/1/rename/laptop: nodes
        POST node/1/tags: nodes
        POST node/1/authorized: nodes
        POST node/1/approve_routes: nodes
        POST node/1/user: nodes
        POST node/1/endpoints: nodes
        GET node/1/attributes: read nodes
        POST node/1/attributes/custom:x: nodes
        DELETE node/1/attributes/custom:x: nodes
        POST node/1/ping: nodes
        POST node/1/c2n: nodes
        GET preauthkey: read keys
        POST preauthkey: keys
        DELETE preauthkey: keys
        POST preauthkey/expire: keys
        GET apikey: read
        POST apikey:
        POST apikey/expire:
        DELETE apikey/0123456789ab:
        GET service: read services
        POST service: services
        GET service/svc:web: read services
        PUT service/svc:web: services
        DELETE service/svc:web: services
        GET service/svc:web/hosts: read services
        POST service/svc:web/hosts/1: services
        GET policy: read policy
        PUT policy: policy
        POST policy/check: policy
        GET auth: read auth
        POST auth/register: auth
        POST auth/approve: auth
        POST auth/reject: auth";

    /// Words where these methods have an id, and find none.
    const IDS: [(&str, &str); 3] =
        [("GET", "node/backfillips"), ("DELETE", "node/backfillips"), ("DELETE", "apikey/expire")];

    /// The scopes of a line of [`MAY`].
    fn expected(method: &str, path: &str) -> Option<BTreeSet<ApiScope>> {
        let said = MAY.lines().find_map(|line| line.trim().strip_prefix(&format!("{method} {path}:")))?;
        let words = said.split_whitespace();
        let mut scopes: BTreeSet<ApiScope> = if said.trim() == "any" {
            ApiScope::EVERY.into()
        } else {
            words.map(|word| word.parse().expect("a scope")).collect()
        };
        scopes.insert(ApiScope::All);
        Some(scopes)
    }

    #[test]
    fn every_scope_opens_exactly_its_routes() {
        let mut seen = 0;
        for row in TABLE {
            let path = row.example.strip_prefix(BASE_PATH).expect("of the API");
            let segments: Vec<&str> = path.split('/').collect();
            for method in METHODS {
                let expected = expected(method, path);
                assert_eq!(expected.is_some(), row.methods.contains(&method), "{method} {path} is in both tables");
                let need = needed(method, &segments);
                let is_id = IDS.contains(&(method, path));
                assert_eq!(need.is_some(), expected.is_some() || is_id, "{method} {path}");
                let (Some(need), Some(expected)) = (need, expected) else { continue };
                seen += 1;
                assert!(!need.is_met_by(&BTreeSet::new()), "{method} {path} without any scope: {need}");
                for scope in ApiScope::EVERY {
                    let may = need.is_met_by(&BTreeSet::from([scope]));
                    assert_eq!(may, expected.contains(&scope), "{scope}: {method} {path}");
                }
                // Scopes add up and take nothing away.
                let all_but: BTreeSet<ApiScope> =
                    ApiScope::EVERY.into_iter().filter(|scope| !expected.contains(scope)).collect();
                assert!(!need.is_met_by(&all_but), "{method} {path} by all that may not");
            }
        }
        assert_eq!(seen, MAY.trim().lines().count(), "a line of a route that does not exist");
    }

    #[test]
    fn what_is_near_a_route_is_none() {
        for (method, path) in [
            ("GET", vec![]),
            ("GET", vec![""]),
            ("GET", vec!["user", "1"]),
            ("get", vec!["user"]),
            ("POST", vec!["node", "1"]),
            ("POST", vec!["node", "1", "rename"]),
            ("GET", vec!["policy", ""]),
            ("DELETE", vec!["apikey"]),
        ] {
            assert_eq!(needed(method, &path), None, "{method} {path:?}");
        }
    }
}
