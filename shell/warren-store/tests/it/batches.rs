//! A control server over a real store, and batches to commit.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use warren_control::register::RegisterAnswer;
use warren_control::{Answer, Batch, Command, Control, Refusal, Rows, Settings, Staged, What};
use warren_crypto::{MachineSecret, NodeSecret, Random, UnixTime};
use warren_store::Store;
use warren_wire::{AuthKey, CapabilityVersion, Hostinfo, RegisterAuth, RegisterRequest};

pub struct Server {
    pub control: Control,
    pub random: Random,
    pub wall: UnixTime,
    pub keys: Vec<String>,
}

pub fn settings() -> Settings {
    let mut settings = Settings::new("https://control.example", "control.example", "mesh.test");
    settings.key_lifetime = Some(Duration::from_secs(20));
    settings
}

impl Server {
    pub fn on(rows: &Rows) -> Self {
        let control = Control::from_rows(rows, settings(), Instant::now()).expect("rows of ours");
        // A wall clock with nanoseconds, which must not get lost.
        let wall = UnixTime::from_duration(Duration::new(1_790_000_000, 123_456_789));
        Self { control, random: Random::from_seed([3; 32]), wall, keys: Vec::new() }
    }

    pub fn decide(&mut self, commands: Vec<What>) -> (Vec<Result<Answer, Refusal>>, Batch) {
        let mut staged = Staged::begin(&self.control);
        let answers: Vec<_> = commands
            .into_iter()
            .map(|what| staged.decide(Command::by_server(what), self.wall, &mut self.random))
            .collect();
        for answer in &answers {
            if let Ok(Answer::Key { secret: Some(secret), .. }) = answer {
                self.keys.push(secret.reveal().to_owned());
            }
        }
        (answers, staged.finish())
    }

    pub fn apply(&mut self, batch: Batch) {
        self.control.apply(batch, Instant::now()).expect("the next revision");
    }

    pub async fn commit(&mut self, store: &mut Store, commands: Vec<What>) -> Vec<Result<Answer, Refusal>> {
        let (answers, batch) = self.decide(commands);
        store.commit(&batch).await.expect("committed");
        self.apply(batch);
        answers
    }
}

pub fn user(name: &str) -> What {
    What::CreateUser {
        name: name.to_owned(),
        display_name: format!("{name} — Ünïcode 'quoted' 日本"),
        email: String::new(),
        picture_url: String::new(),
    }
}

pub fn key(user: i64, tags: &[&str], reusable: bool) -> What {
    What::CreateKey {
        user: Some(warren_wire::UserId(user)),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        reusable,
        ephemeral: false,
        preapproved: false,
        expiry: None,
    }
}

pub fn register(machine: u8, node_key: u8, auth_key: &str, hostname: &str) -> What {
    let request = RegisterRequest {
        version: CapabilityVersion::OLDEST_SERVED,
        node_key: NodeSecret::from_seed([node_key; 32]).public(),
        auth: Some(RegisterAuth { auth_key: Some(AuthKey::new(auth_key)) }),
        hostinfo: Some(Box::new(Hostinfo { hostname: hostname.to_owned(), ..Hostinfo::default() })),
        ..RegisterRequest::default()
    };
    What::Register { machine: MachineSecret::from_seed([machine; 32]).public(), request: Arc::new(request) }
}

pub fn is_in(answer: &Result<Answer, Refusal>) -> bool {
    matches!(answer, Ok(Answer::Register(RegisterAnswer::Authorized { .. })))
}

pub async fn open(path: &Path) -> Store {
    Store::open(path).await.expect("a database of ours")
}

/// A folder with a database in which ann has one node.
pub async fn with_one_node() -> (tempfile::TempDir, PathBuf, Server, Store) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state").join("control.db");
    let mut store = open(&path).await;
    let mut server = Server::on(&store.load().await.expect("an empty registry"));
    server.commit(&mut store, vec![user("ann"), key(1, &[], true)]).await;
    let secret = server.keys[0].clone();
    let answers = server.commit(&mut store, vec![register(1, 11, &secret, "host")]).await;
    assert!(is_in(&answers[0]));
    (folder, path, server, store)
}
