//! A whole control server as one value: the registry's rules, who must hear of what, and what each node is told.
//!
//! What it is not: no SQL, no HTTP, no task, no clock. The store commits what is decided here, the service carries
//! requests in and maps out.
//!
//! | module | what |
//! |---|---|
//! | [`rows`] | the registry as rows: what the store writes and reads |
//! | [`command`] | what may be asked, by whom, and what is answered |
//! | [`staged`] | the overlay on which a batch is decided, and the batch |
//! | [`register`] | how a machine gets in, comes back and leaves |
//! | [`people`] | who people are, by what an identity provider says, and what follows for their nodes |
//! | [`attributes`] | facts about devices that operators and the devices set, for postures |
//! | [`services`] | addresses that several nodes may answer at |
//! | [`offers`] | which services nodes say that they would host |
//! | [`api_keys`] | keys for programs and operators far away, and what each may do |
//! | [`event`] | what was decided, and who must hear of it |
//! | [`clones`] | two machines with one state |
//! | [`shell_checks`] | shell sessions that a person or an operator must let in |
//! | [`presence`] | what nodes say about themselves, beside the registry |
//! | [`snapshot`] | what everyone reads |
//! | [`map_session`] | what one map stream sends next |
//! | [`settings`] | what the operator configured |
//!
//! The one writer's loop:
//!
//! ```text
//! let mut control = Control::from_rows(&store.load()?, settings, now)?;
//! loop {
//!     // waiting commands, and what control itself asks (`poll_ask`)
//!     let mut staged = Staged::begin(&control);
//!     let answers = commands.map(|command| staged.decide(command, wall, &mut random));
//!     let batch = staged.finish();
//!     if batch.needs_commit() { store.commit(&batch)?; }      // on error: drop the batch, answer "try again"
//!     control.apply(batch, now)?;
//!     send(answers);                                          // only now
//!     if let Some(snapshot) = control.publish() { tell_sessions(snapshot); }
//! }
//! // beside it: handle_map_request, handle_stream_started/ended, handle_timeout; every second store.save_soft(take_soft())
//! ```

#![forbid(unsafe_code)]

mod addresses;
pub mod api_keys;
mod approvals;
pub mod attributes;
mod auth_keys;
pub mod clones;
pub mod command;
mod control;
mod dns;
pub mod event;
mod extra;
mod gap;
mod health;
pub mod map_session;
mod names;
mod node_set;
pub mod offers;
mod operator_keys;
mod operator_nodes;
mod operator_users;
mod pending;
pub mod people;
pub mod presence;
mod records;
pub mod register;
mod registry;
mod roles;
mod routers;
mod routes;
pub mod rows;
pub mod services;
pub mod settings;
pub mod shell_checks;
mod shown;
pub mod snapshot;
pub mod staged;
mod table;
mod tags;
mod visibility;

pub use api_keys::{ApiKeyRefusal, ApiScope, NoScope};
pub use attributes::{AttributeValue, AttributeWish, CustomAttribute, SetBy};
pub use auth_keys::KeySecret;
pub use clones::ChannelId;
pub use command::{Actor, Answer, Command, Refusal, RegisterRefusal, What};
pub use control::{Control, Stale};
pub use event::{Event, Impact, impact};
pub use map_session::{Next, Session};
pub use node_set::NodeSet;
pub use offers::{Offer, Offered};
pub use pending::{AuthId, NotAnAuthId, Pending, Verdict, Waiting};
pub use people::Person;
pub use presence::{Presence, Present};
pub use register::RegisterAnswer;
pub use registry::{Registry, RowsError};
pub use roles::UserRole;
pub use routers::Probing;
pub use routes::Served;
pub use rows::{AuditLine, RowChange, Rows, SoftRow};
pub use services::{ServiceChange, ServiceWish};
pub use settings::{DnsSettings, Settings, SettingsError};
pub use shell_checks::{CheckRefusal, CheckStep, CheckVerdict, ShellCheck, ShellChecks, ShellSession};
pub use snapshot::{MapError, Snapshot};
pub use staged::{Batch, Staged};
pub use warren_policy::{CheckPeriod, NoRole, Role, SshCheck};
