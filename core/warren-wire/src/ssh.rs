//! Who may open a shell on this node. control-protocol.md §8.9. Keys are lower case here.

use std::collections::BTreeMap;

use warren_crypto::UnixTime;

use crate::object::wire_object;

wire_object! {
    /// Rules in order; the first that matches decides. No rules: no access.
    pub struct SshPolicy {
        [always] pub rules: Vec<SshRule> => "rules",
    }
}

wire_object! {
    /// Who, as whom, and what then.
    pub struct SshRule {
        [time] pub rule_expires: Option<UnixTime> => "ruleExpires",
        [always] pub principals: Vec<SshPrincipal> => "principals",
        /// Asked user → local user; the key `*` is any, the value `=` the same, an empty value refuses.
        [always] pub ssh_users: BTreeMap<String, String> => "sshUsers",
        [always] pub action: Option<SshAction> => "action",
        [omit] pub accept_env: Vec<String> => "acceptEnv",
    }
}

wire_object! {
    /// Whom a rule means; one field is set.
    pub struct SshPrincipal {
        [omit] pub node: String => "node",
        [omit] pub node_ip: String => "nodeIP",
        [omit] pub user_login: String => "userLogin",
        [omit] pub any: bool => "any",
    }
}

wire_object! {
    /// Exactly one of `reject`, `accept`, `hold_and_delegate`.
    pub struct SshAction {
        [omit] pub message: String => "message",
        [omit] pub reject: bool => "reject",
        [omit] pub accept: bool => "accept",
        /// Nanoseconds; 0 is without limit.
        [omit] pub session_duration_nanos: i64 => "sessionDuration",
        [omit] pub allow_agent_forwarding: bool => "allowAgentForwarding",
        [omit] pub hold_and_delegate: String => "holdAndDelegate",
        [omit] pub allow_local_port_forwarding: bool => "allowLocalPortForwarding",
        [omit] pub allow_remote_port_forwarding: bool => "allowRemotePortForwarding",
        [omit] pub recorders: Vec<String> => "recorders",
        [omit] pub on_recording_failure: Option<SshRecorderFailureAction> => "onRecordingFailure",
    }
}

wire_object! {
    /// What happens when a session cannot be recorded. Keys are upper case, though nested in [`SshAction`].
    pub struct SshRecorderFailureAction {
        [omit] pub reject_session_with_message: String => "RejectSessionWithMessage",
        [omit] pub terminate_session_with_message: String => "TerminateSessionWithMessage",
        [omit] pub notify_url: String => "NotifyURL",
    }
}
