//! A policy as plain data, what it means, and how it is written down.

use crate::choices::Choices;

/// How many people there are.
pub const USERS: usize = 3;

/// The ports that programs of the lab listen on.
pub const PORTS: [u16; 2] = [22, 80];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Anyone,
    User(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    Any,
    One(u16),
}

/// `src` may open connections to `port` of `dst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    pub src: Who,
    pub dst: Who,
    pub port: Port,
}

/// A whole policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules(pub Vec<Rule>);

impl Who {
    fn is(self, user: usize) -> bool {
        match self {
            Who::Anyone => true,
            Who::User(named) => named == user,
        }
    }

    fn draw(choices: &mut Choices) -> Who {
        match choices.below(USERS + 2) {
            user if user < USERS => Who::User(user),
            _ => Who::Anyone,
        }
    }

    fn text(self) -> String {
        match self {
            Who::Anyone => "*".into(),
            Who::User(user) => format!("{}@", user_name(user)),
        }
    }
}

impl Rules {
    /// What holds before anybody writes a policy.
    pub fn everything() -> Rules {
        Rules(vec![Rule { src: Who::Anyone, dst: Who::Anyone, port: Port::Any }])
    }

    pub fn draw(choices: &mut Choices) -> Rules {
        let rule = |choices: &mut Choices| Rule {
            src: Who::draw(choices),
            dst: Who::draw(choices),
            port: match choices.below(PORTS.len() + 1) {
                index if index < PORTS.len() => Port::One(PORTS[index]),
                _ => Port::Any,
            },
        };
        let count = choices.below(4);
        Rules((0..count).map(|_| rule(choices)).collect())
    }

    pub fn allow(&self, src: usize, dst: usize, port: u16) -> bool {
        let fits = |rule: &Rule| match rule.port {
            Port::Any => true,
            Port::One(named) => named == port,
        };
        self.0.iter().any(|rule| rule.src.is(src) && rule.dst.is(dst) && fits(rule))
    }

    /// Whether nodes of these two people see each other: if either may open anything towards the other.
    pub fn connect(&self, a: usize, b: usize) -> bool {
        self.0.iter().any(|rule| rule.src.is(a) && rule.dst.is(b) || rule.src.is(b) && rule.dst.is(a))
    }

    /// As an operator writes it.
    pub fn text(&self) -> String {
        let rule = |rule: &Rule| {
            let port = match rule.port {
                Port::Any => "*".to_string(),
                Port::One(port) => port.to_string(),
            };
            format!(r#"{{"action":"accept","src":["{}"],"dst":["{}:{port}"]}}"#, rule.src.text(), rule.dst.text())
        };
        format!(r#"{{"acls":[{}]}}"#, self.0.iter().map(rule).collect::<Vec<_>>().join(","))
    }
}

pub fn user_name(user: usize) -> String {
    format!("user{user}")
}
