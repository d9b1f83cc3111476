//! The registry's rows as the API shows them: the one place that converts.

use warren_api::admin;
use warren_control::rows::{ApiKey, LOCAL_ISSUER, Node, Owner, PreAuthKey, Registered, Service, User};
use warren_control::{Registry, Served, Snapshot};
use warren_wire::UserId;

/// With what the provider says of the groups.
pub(super) fn person(person: &User, registry: &Registry) -> admin::User {
    let groups = registry.sign_in(person.id).into_iter().flat_map(|sign_in| sign_in.groups.iter().cloned()).collect();
    admin::User { groups, ..user(person) }
}

/// As the owner of something.
pub(super) fn user(user: &User) -> admin::User {
    let is_local = user.issuer == LOCAL_ISSUER;
    admin::User {
        id: user.id.to_string(),
        name: user.name.clone(),
        created_at: Some(user.created),
        display_name: user.display_name.clone(),
        email: user.email.clone(),
        provider_id: if is_local { String::new() } else { format!("{}/{}", user.issuer, user.subject) },
        provider: if is_local { String::new() } else { "oidc".to_owned() },
        profile_pic_url: user.picture_url.clone(),
        role: user.role.to_string(),
        self_named: user.self_named,
        groups: Vec::new(),
    }
}

pub(super) fn node(node: &Node, snapshot: &Snapshot) -> admin::Node {
    let registry = snapshot.registry();
    let present = snapshot.present(node.id);
    let announced = present.map(|present| present.hostinfo.routable_ips.clone()).unwrap_or_default();
    let owner = match &node.owner {
        Owner::User(id) => registry.user(*id).map(|found| user(found)).unwrap_or_default(),
        Owner::Tags(_) => admin::User {
            id: UserId::TAGGED_DEVICES.to_string(),
            name: "tagged-devices".to_owned(),
            ..admin::User::default()
        },
    };
    let join_key = match node.registered {
        Registered::Key(id) => registry.key(id),
        Registered::Approved | Registered::SignIn => None,
    };
    admin::Node {
        id: node.id.to_string(),
        machine_key: node.machine_key.to_string(),
        node_key: node.node_key.to_string(),
        disco_key: present.and_then(|present| present.disco).map(|disco| disco.to_string()).unwrap_or_default(),
        ip_addresses: node.addresses().iter().map(|prefix| prefix.addr().to_string()).collect(),
        name: node.hostname.clone(),
        user: owner,
        last_seen: present.and_then(|present| present.last_seen),
        expiry: node.expiry,
        pre_auth_key: join_key.map(|found| key(found, snapshot)),
        created_at: Some(node.created),
        register_method: match node.registered {
            Registered::Key(_) => "REGISTER_METHOD_AUTH_KEY",
            Registered::Approved => "REGISTER_METHOD_CLI",
            Registered::SignIn => "REGISTER_METHOD_OIDC",
        }
        .to_owned(),
        given_name: node.name.clone(),
        online: present.is_some_and(|present| present.online),
        approved_routes: node.approved_routes.iter().map(ToString::to_string).collect(),
        available_routes: announced.iter().map(ToString::to_string).collect(),
        subnet_routes: snapshot
            .served_by(node.id)
            .into_iter()
            .flat_map(Served::active)
            .map(|r| r.to_string())
            .collect(),
        tags: node.owner.tags().into_iter().flatten().cloned().collect(),
        expired: node.is_expired(crate::clock::wall()),
        ephemeral: node.ephemeral,
        hides_endpoints: node.hides_endpoints,
        doubled: present.is_some_and(|present| present.doubled),
        authorized: node.approved,
    }
}

pub(super) fn service(service: &Service, snapshot: &Snapshot) -> admin::Service {
    admin::Service {
        name: service.full_name(),
        addrs: service.addresses().iter().map(|prefix| prefix.addr().to_string()).collect(),
        ports: service.ports.clone(),
        comment: service.comment.clone(),
        tags: service.tags.iter().cloned().collect(),
        created_at: Some(service.created),
        hosts: hosts(service, snapshot),
    }
}

/// Those that may host it, and those that would.
pub(super) fn hosts(service: &Service, snapshot: &Snapshot) -> Vec<admin::ServiceHost> {
    let name = service.full_name();
    let host = |node: &std::sync::Arc<Node>| {
        let present = snapshot.present(node.id);
        let offer = present.and_then(|present| present.offered.services.get(&name));
        let approved = service.approved.contains(&node.id);
        (approved || offer.is_some()).then(|| admin::ServiceHost {
            node_id: node.id.to_string(),
            name: node.name.clone(),
            approved,
            offered: offer.is_some_and(|offer| offer.is_active),
            ports: offer.map(|offer| offer.ports.clone()).unwrap_or_default(),
            online: present.is_some_and(|present| present.online),
            answers: snapshot.served_by(node.id).is_some_and(|served| served.answers_for.contains(&service.id)),
        })
    };
    snapshot.registry().nodes().filter_map(host).collect()
}

/// Without its secret, which the server does not have.
pub(super) fn api_key(key: &ApiKey) -> admin::ApiKey {
    admin::ApiKey {
        id: key.id.to_string(),
        prefix: key.masked(),
        expiration: Some(key.expiry),
        created_at: Some(key.created),
        last_seen: key.last_seen,
        scopes: key.scopes.iter().map(ToString::to_string).collect(),
    }
}

/// Without its secret, which the server does not have.
pub(super) fn key(key: &PreAuthKey, snapshot: &Snapshot) -> admin::PreAuthKey {
    admin::PreAuthKey {
        user: key.user.and_then(|id| snapshot.registry().user(id)).map(|found| user(found)),
        id: key.id.to_string(),
        key: format!("wkey-auth-{}-***", key.prefix),
        reusable: key.reusable,
        ephemeral: key.ephemeral,
        pre_approved: key.preapproved,
        used: key.used,
        expiration: key.expiry,
        created_at: Some(key.created),
        acl_tags: key.tags.iter().cloned().collect(),
    }
}
