//! Statements about a policy, one a line, as people say them.
//!
//! ```text
//! # comments and empty lines are skipped
//! nothing from tag:guest reaches tag:db
//! nothing from group:contractors reaches 10.0.0.0/8 on tcp 22
//! alice@example.com reaches every tag:server on 22
//! ```

use warren_ip::Protocol;
use warren_wire::PortRange;

use crate::analysis::traffic::Traffic;
use crate::policy::Policy;
use crate::ports;
use crate::selector::{Autogroup, Selector};

/// Most statements in one file.
const MAX_STATEMENTS: usize = 10_000;

/// One line of a file of statements.
#[derive(Clone, PartialEq, Debug)]
pub struct Statement {
    /// From 1.
    pub line: usize,
    /// As written, without comment.
    pub text: String,
    /// What it says, or why it cannot be understood.
    pub(crate) claim: Result<Claim, String>,
}

/// What a statement says of every packet from `from` to `to` in `traffic`.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Claim {
    pub(crate) kind: ClaimKind,
    pub(crate) from: Selector,
    pub(crate) to: Selector,
    pub(crate) traffic: Traffic,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ClaimKind {
    /// None of them passes.
    Nothing,
    /// All of them pass.
    Every,
}

/// Reads a file of statements. Lines that cannot be understood are statements too: they are refused when their turn comes.
///
/// # Errors
/// A text for a person, if there are too many.
pub fn read_statements(text: &str) -> Result<Vec<Statement>, String> {
    let mut statements = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let text = without_comment(line).trim();
        if text.is_empty() {
            continue;
        }
        if statements.len() == MAX_STATEMENTS {
            return Err(format!("line {}: a file holds at most {MAX_STATEMENTS} statements", index + 1));
        }
        statements.push(Statement { line: index + 1, text: text.to_owned(), claim: Claim::parse(text) });
    }
    Ok(statements)
}

/// A comment begins a line or follows a space, so that no selector is cut.
fn without_comment(line: &str) -> &str {
    let starts = ["#", "//"].into_iter().flat_map(|mark| line.match_indices(mark).map(|(at, _)| at));
    let comment = starts.filter(|at| line[..*at].chars().next_back().is_none_or(char::is_whitespace)).min();
    comment.map_or(line, |at| &line[..at])
}

const FORMS: &str =
    "a statement is \"nothing from SRC reaches DST [on PORTS]\" or \"SRC reaches every DST [on PORTS]\"";

impl Claim {
    fn parse(text: &str) -> Result<Claim, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (kind, from, to, rest) = match words[..] {
            ["nothing", "from", from, "reaches", "every", to, ref rest @ ..]
            | ["nothing", "from", from, "reaches", to, ref rest @ ..] => (ClaimKind::Nothing, from, to, rest),
            ["every", from, "reaches", "every", to, ref rest @ ..] | [from, "reaches", "every", to, ref rest @ ..] => {
                (ClaimKind::Every, from, to, rest)
            }
            [from, "reaches", to, ref rest @ ..] | ["every", from, "reaches", to, ref rest @ ..] => {
                if !is_one_place(to) {
                    return Err(format!("one {to}, or each? Write \"{from} reaches every {to}\""));
                }
                (ClaimKind::Every, from, to, rest)
            }
            _ => return Err(FORMS.to_owned()),
        };
        let (from, to) = (Selector::parse(from)?, Selector::parse(to)?);
        let traffic = match rest {
            [] if kind == ClaimKind::Nothing => Traffic::all(),
            [] => Traffic::usual(),
            ["on", ports @ ..] if !ports.is_empty() => parse_traffic(&ports.join(" "))?,
            _ => return Err(FORMS.to_owned()),
        };
        let claim = Claim { kind, from, to, traffic };
        claim.check_sides()?;
        Ok(claim)
    }

    fn check_sides(&self) -> Result<(), String> {
        match &self.from {
            Selector::Service(_) | Selector::Autogroup(Autogroup::Internet | Autogroup::Selves) => {
                return Err(format!("{} is no source: nothing is sent from there", self.from));
            }
            _ => {}
        }
        match &self.to {
            Selector::Autogroup(Autogroup::DangerAll | Autogroup::Shared) => {
                Err(format!("{} is no destination", self.to))
            }
            Selector::Autogroup(Autogroup::Selves) if !speaks_of_people(&self.from) => {
                Err(format!("autogroup:self is about people's own devices, and {} names no people", self.from))
            }
            _ => Ok(()),
        }
    }

    /// Whether the policy knows what the statement speaks of.
    ///
    /// # Errors
    /// What it does not know.
    pub(crate) fn check_defined(&self, policy: &Policy) -> Result<(), String> {
        policy.check_defined(&self.from)?;
        policy.check_defined(&self.to)
    }
}

fn speaks_of_people(selector: &Selector) -> bool {
    matches!(
        selector,
        Selector::User(_)
            | Selector::Group(_)
            | Selector::Domain(_)
            | Selector::Autogroup(Autogroup::Member | Autogroup::Role(_))
    )
}

/// Whether a destination cannot be several.
fn is_one_place(word: &str) -> bool {
    match Selector::parse(word) {
        Ok(Selector::Address(prefix)) => prefix.is_host(),
        Ok(Selector::Host(_) | Selector::Service(_)) => true,
        _ => false,
    }
}

/// `22`, `80,443`, `tcp 22`, `tcp 22, udp 53`, `tcp:22`, `icmp`, `*`. Ports without a protocol are those of TCP and UDP.
fn parse_traffic(text: &str) -> Result<Traffic, String> {
    let mut traffic = Traffic::default();
    // A protocol that waits for its ports.
    let mut waiting: Option<Protocol> = None;
    let mut is_bare = false;
    let spaced = text.replace([',', ':'], " ");
    for word in spaced.split_whitespace().filter(|word| *word != "and") {
        let is_port = word == "*" || word.starts_with(|first: char| first.is_ascii_digit());
        if !is_port {
            if let (Some(protocol), true) = (waiting, is_bare) {
                traffic.insert(protocol, PortRange::ANY);
            }
            let protocol = ports::parse_protocol(word)?;
            (waiting, is_bare) = (protocol, true);
            if protocol.is_some_and(Protocol::is_icmp) {
                // Each family has its own, and a person who says the one means both.
                traffic.insert(Protocol::ICMP, PortRange::ANY);
                traffic.insert(Protocol::ICMPV6, PortRange::ANY);
            }
            continue;
        }
        let ranges = ports::parse_ports(word)?;
        match waiting {
            None if word == "*" => traffic.union_with(&Traffic::usual()),
            None => [Protocol::TCP, Protocol::UDP]
                .into_iter()
                .for_each(|protocol| ranges.iter().for_each(|range| traffic.insert(protocol, *range))),
            Some(protocol) if !protocol.has_ports() && word != "*" => {
                return Err(format!("protocol {protocol} has no ports: leave out {word:?}"));
            }
            Some(protocol) => ranges.iter().for_each(|range| traffic.insert(protocol, *range)),
        }
        is_bare = false;
    }
    if let (Some(protocol), true) = (waiting, is_bare) {
        traffic.insert(protocol, PortRange::ANY);
    }
    Ok(traffic)
}

/// A protocol by the name or number that policies use.
///
/// # Errors
/// What is wrong with the word, in the field's words.
pub fn parse_protocol(word: &str) -> Result<Protocol, String> {
    ports::parse_protocol(word)?.ok_or_else(|| "which protocol?".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: &str) {
        let shown = match Claim::parse(text) {
            Ok(claim) => {
                let kind = if claim.kind == ClaimKind::Nothing { "nothing" } else { "every" };
                format!("{kind} {} {} on {}", claim.from, claim.to, claim.traffic)
            }
            Err(error) => format!("refused: {error}"),
        };
        assert!(shown.contains(expect), "{text}: {shown}");
    }

    #[test]
    fn statements_are_read() {
        check("nothing from tag:guest reaches tag:db", "nothing tag:guest tag:db on everything");
        check("nothing from group:c reaches 10.0.0.0/8 on tcp 22", "nothing group:c 10.0.0.0/8 on tcp 22");
        check(
            "alice@example.com reaches every tag:server on 22",
            "every alice@example.com tag:server on tcp and udp 22",
        );
        check("every tag:a reaches every tag:b on icmp", "every tag:a tag:b on icmp");
        check("tag:a reaches 100.64.0.7 on tcp 80,443, udp 53", "on tcp 80, 443; udp 53");
        check("tag:a reaches every tag:b", "on tcp and udp *; icmp");
        check("tag:a reaches every tag:b on tcp:22 and gre", "on tcp 22; 47");
    }

    #[test]
    fn statements_that_say_two_things_or_none_are_refused() {
        check("tag:a reaches tag:b", "refused: one tag:b, or each? Write \"tag:a reaches every tag:b\"");
        check("tag:a talks to tag:b", "refused: a statement is");
        check("nothing from tag:a reaches tag:b on", "refused: a statement is");
        check("nothing from tag:a reaches tag:b on gre 22", "refused: protocol 47 has no ports");
        check("nothing from tag:a reaches autogroup:self", "names no people");
        check("nothing from svc:web reaches tag:a", "is no source");
        check("tag:a reaches every tag:b on ssh", "refused");
    }

    #[test]
    fn comments_are_not_statements() {
        let statements = read_statements("# all\n\n  // none\ntag:a reaches every tag:b  # why\n").unwrap();
        assert_eq!(statements.len(), 1);
        assert_eq!((statements[0].line, statements[0].text.as_str()), (4, "tag:a reaches every tag:b"));
    }
}
