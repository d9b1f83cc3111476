//! A policy that was understood whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use warren_ip::{IpRanges, Prefix};

use crate::approve::AutoApprovers;
use crate::diagnostics::{Complaints, Diagnostic, Diagnostics};
use crate::document::Document;
use crate::extras::Extras;
use crate::posture::Posture;
use crate::raw::Kind;
use crate::rule::Rule;
use crate::selector::Selector;

/// Longest text that is read, in bytes. The field's own service takes less.
pub const MAX_POLICY_LEN: usize = 4 << 20;

/// The rules of a tailnet, checked, independent of its nodes.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Policy {
    /// Words that name people, by the group's name with its `group:`.
    pub(crate) groups: BTreeMap<String, Vec<String>>,
    pub(crate) hosts: BTreeMap<String, Prefix>,
    /// With their `ipset:`, resolved.
    pub(crate) ip_sets: BTreeMap<String, IpRanges>,
    pub(crate) tag_owners: BTreeMap<String, Vec<Selector>>,
    /// With their `posture:`.
    pub(crate) postures: BTreeMap<String, Posture>,
    /// For rules that name none.
    pub(crate) default_postures: Vec<String>,
    /// `None`: the policy says nothing of access, and everyone reaches everything.
    pub(crate) rules: Option<Arc<[Rule]>>,
    pub(crate) approvers: AutoApprovers,
    pub(crate) extras: Extras,
    notes: Vec<Diagnostic>,
    randomizes_client_port: bool,
}

impl Policy {
    /// The policy of a network that has none: everyone reaches everything.
    pub fn allow_all() -> Policy {
        Policy::default()
    }

    /// Reads HuJSON, which is JSON with comments and trailing commas, or YAML.
    ///
    /// # Errors
    /// Everything that is wrong with the text, each with its line and column. Parts of the language that this build does
    /// not have and that would change who reaches whom are errors too.
    pub fn parse(text: &str) -> Result<Policy, Diagnostics> {
        let mut complaints = Complaints::new(text);
        let mut policy = Policy::default();
        if text.len() > MAX_POLICY_LEN {
            complaints.add(0, "", format!("a policy is at most {MAX_POLICY_LEN} bytes long"));
        } else if let Some(document) = Document::parse(text, &mut complaints) {
            policy.read(&document, &mut complaints);
        }
        policy.notes = complaints.finish()?;
        Ok(policy)
    }

    /// What `warren policy check` answers about a text that calls itself `name`.
    ///
    /// # Errors
    /// The answer if the text is no policy.
    pub fn check(name: &str, text: &str) -> Result<String, String> {
        let list = |remarks: &[Diagnostic], start: &str| -> String {
            remarks.iter().map(|remark| format!("\n{start}{}", remark.pointed())).collect()
        };
        match Policy::parse(text) {
            Ok(policy) => Ok(format!("{name} is a policy.{}", list(policy.notes(), "note: "))),
            Err(Diagnostics(remarks)) => Err(format!("{name} is not a policy:{}", list(&remarks, ""))),
        }
    }

    /// What was accepted although the field writes it differently, with how it was read.
    pub fn notes(&self) -> &[Diagnostic] {
        &self.notes
    }

    /// Sections that the text fills and that this build accepts without acting on them. None of them gives access.
    pub fn not_built(&self) -> &[String] {
        self.extras.not_built()
    }

    /// Whether the text says nothing of access, so that everyone reaches everything.
    pub fn allows_all(&self) -> bool {
        self.rules.is_none()
    }

    /// Whether nodes are to leave the fixed UDP port alone (`randomizeClientPort`).
    pub fn randomizes_client_port(&self) -> bool {
        self.randomizes_client_port
    }

    /// Whether the policy knows the tag, written with its `tag:`.
    pub fn knows_tag(&self, tag: &str) -> bool {
        self.tag_owners.contains_key(tag)
    }

    /// Whether what a selector names by a name is defined; what needs no definition is.
    ///
    /// # Errors
    /// What is missing, in the field's words.
    pub(crate) fn check_defined(&self, selector: &Selector) -> Result<(), String> {
        match selector {
            Selector::Tag(tag) if !self.knows_tag(tag) => Err(format!("tag not found: {tag:?}")),
            Selector::Group(group) if !self.groups.contains_key(group) && !group.contains('@') => {
                Err(format!("group not defined in policy: {group:?}"))
            }
            Selector::Host(host) if !self.hosts.contains_key(host) => {
                Err(format!("host not defined in policy: {host:?}"))
            }
            Selector::IpSet(name) if !self.ip_sets.contains_key(name) => {
                Err(format!("ipset not defined in policy: {name:?}"))
            }
            _ => Ok(()),
        }
        .map_err(|missing: String| missing + &self.remedy(selector))
    }

    /// Definitions come first, because the other sections use them.
    fn read(&mut self, document: &Document, complaints: &mut Complaints) {
        self.read_groups(document, complaints);
        self.read_hosts(document, complaints);
        self.read_ip_sets(document, complaints);
        self.read_tag_owners(document, complaints);
        self.read_postures(document, complaints);
        self.approvers = AutoApprovers::read(self, document, complaints);
        self.rules = self.read_rules(document, complaints).map(Arc::from);
        self.extras = Extras::read(self, document, complaints);
        if let Some(value) = document.section("randomizeClientPort") {
            match value.kind {
                Kind::Bool(value) => self.randomizes_client_port = value,
                _ => complaints.add(value.at, "randomizeClientPort", "must be true or false"),
            }
        }
    }
}
