//! A [`Backend`] that remembers, and the socket that it answers on.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use warren_api::local::{
    BackendState, Client, LoginProfile, MaskedPrefs, NetcheckReport, Notify, PingKind, PingResult, Prefs, StartOptions,
    Status, WhoIs,
};
use warren_io::local_socket::{self, OpenTo};
use warrend::local_api::{self, Backend, Refusal, Stream, WhoIsQuestion};

/// What the fake daemon was told.
#[derive(Default)]
pub struct Told {
    pub prefs: Prefs,
    pub start: Option<StartOptions>,
    pub profiles: Vec<String>,
    pub watchers: Vec<mpsc::Sender<Notify>>,
}

#[derive(Clone, Default)]
pub struct Fake {
    told: Arc<Mutex<Told>>,
    /// What was no request.
    pub refused: Arc<std::sync::atomic::AtomicU64>,
}

impl Fake {
    pub fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Fake {
    async fn status(&self, with_peers: bool) -> Result<Status, Refusal> {
        Ok(Status {
            backend_state: BackendState::Running.as_str().into(),
            peer: with_peers.then(Default::default),
            ..Status::default()
        })
    }

    async fn prefs(&self) -> Result<Prefs, Refusal> {
        Ok(self.told().prefs.clone())
    }

    async fn edit_prefs(&self, edit: MaskedPrefs) -> Result<Prefs, Refusal> {
        let mut told = self.told();
        told.prefs = edit.apply_to(&told.prefs).map_err(|error| Refusal::new(400, error.to_string()))?;
        Ok(told.prefs.clone())
    }

    async fn check_prefs(&self, prefs: Prefs) -> Result<Option<String>, Refusal> {
        Ok(prefs.run_ssh.then(|| "the SSH server is not built yet in this node".to_owned()))
    }

    async fn start(&self, options: StartOptions) -> Result<(), Refusal> {
        self.told().start = Some(options);
        Ok(())
    }

    async fn login_interactive(&self) -> Result<(), Refusal> {
        Ok(())
    }

    async fn logout(&self) -> Result<(), Refusal> {
        self.told().prefs.logged_out = true;
        Ok(())
    }

    async fn profiles(&self) -> Result<(Vec<LoginProfile>, LoginProfile), Refusal> {
        let all: Vec<_> =
            self.told().profiles.iter().map(|id| LoginProfile { id: id.clone(), ..LoginProfile::default() }).collect();
        let last = all.last().cloned().unwrap_or_default();
        Ok((all, last))
    }

    async fn new_profile(&self) -> Result<(), Refusal> {
        let mut told = self.told();
        let id = format!("{:04x}", told.profiles.len());
        told.profiles.push(id);
        Ok(())
    }

    async fn switch_profile(&self, id: String) -> Result<(), Refusal> {
        let found = self.told().profiles.contains(&id);
        if found { Ok(()) } else { Err(Refusal::new(404, "profile not found")) }
    }

    async fn delete_profile(&self, id: String) -> Result<(), Refusal> {
        self.told().profiles.retain(|kept| *kept != id);
        Ok(())
    }

    async fn ping(&self, ip: std::net::IpAddr, kind: PingKind, _size: usize) -> Result<PingResult, Refusal> {
        Ok(PingResult { ip: ip.to_string(), node_name: kind.as_str().into(), ..PingResult::default() })
    }

    async fn whois(&self, who: WhoIsQuestion) -> Result<Option<WhoIs>, Refusal> {
        let known = matches!(who, WhoIsQuestion::Address(address) if address.port() == 22);
        Ok(known.then(|| WhoIs { node: Default::default(), user_profile: Default::default(), cap_map: None }))
    }

    async fn derp_map(&self) -> Result<Option<warren_wire::RelayMap>, Refusal> {
        Ok(None)
    }

    async fn netcheck(&self) -> Result<NetcheckReport, Refusal> {
        Ok(NetcheckReport { udp: true, ..NetcheckReport::default() })
    }

    async fn counters(&self) -> Result<serde_json::Value, Refusal> {
        Ok(serde_json::json!({ "packets_in": 7 }))
    }

    async fn user_metrics(&self) -> Result<String, Refusal> {
        Ok("tailscaled_inbound_packets_total 7\n".into())
    }

    fn note_refusal(&self) {
        self.refused.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    /// A stream that says every byte back.
    async fn dial(&self, host: String, port: u16) -> Result<Box<dyn Stream>, Refusal> {
        if host != "echo" || port != 7 {
            return Err(Refusal::new(502, format!("resolve failure: {host}: no such host")));
        }
        let (near, far) = tokio::io::duplex(1024);
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(far);
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        });
        Ok(Box::new(near))
    }

    async fn watch(&self) -> mpsc::Receiver<Notify> {
        let (news, receiver) = mpsc::channel(4);
        self.told().watchers.push(news);
        receiver
    }

    async fn operator(&self) -> Option<String> {
        None
    }
}

/// LocalAPI answering for a [`Fake`] in a folder of its own.
pub struct Daemon {
    pub fake: Fake,
    pub client: Client,
    pub socket: PathBuf,
    shutdown: watch::Sender<bool>,
    serving: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Daemon {
    pub async fn start() -> Daemon {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("node.sock");
        let listener = local_socket::bind(&socket, OpenTo::Everyone).await.expect("a free path");
        let (shutdown, stop) = watch::channel(false);
        let fake = Fake::default();
        let serving = tokio::spawn(local_api::serve(listener, fake.clone(), 113, stop));
        Daemon { fake, client: Client::new(&socket), socket, shutdown, serving, _folder: folder }
    }

    pub async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).await.expect("it listens")
    }

    pub async fn stop(self) -> PathBuf {
        self.shutdown.send(true).expect("it serves");
        self.serving.await.expect("it does not panic");
        self.socket.clone()
    }
}
