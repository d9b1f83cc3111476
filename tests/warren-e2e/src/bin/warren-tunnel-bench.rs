//! `cargo xtask bench tunnel`, inside namespaces of its own: two machines on one cable, and a tunnel between them.
//!
//! Every subject carries the same single TCP stream at MTU 1420 in the same run; absolute figures mean little on a shared
//! machine, ratios between subjects of one run do. CPU is that of the tunnel's own processes (for the bare cable, that of
//! the whole machine), by the operating system's accounting.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use warren_e2e::service::{Control, Mode, Node};
use warren_e2e::{Machine, Process, machine, till};

const PATIENCE: Duration = Duration::from_secs(30);

struct Settings {
    runs: usize,
    seconds: u32,
    json: bool,
    tools: Option<PathBuf>,
}

/// What one run of one subject gave.
#[derive(Clone, Copy, Default)]
struct Run {
    goodput_mbit: f64,
    cpu_per_gb: f64,
    rtt_p50_us: f64,
    rtt_p99_us: f64,
    rss_mib: f64,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| words.iter().any(|given| given == word);
    let settings = Settings {
        runs: if has("--quick") { 3 } else { 5 },
        seconds: if has("--quick") { 2 } else { 5 },
        json: has("--json"),
        tools: std::env::var_os("WARREN_BENCH_TOOLS").map(PathBuf::from),
    };
    // Inside a process namespace of our own the process number is always the same; another run may be under way.
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let folder = std::env::temp_dir().join(format!("warren-bench-{}", since_epoch.as_nanos()));
    let a = Machine::new("ba", &folder);
    let b = Machine::new("bb", &folder);
    machine::shell("ip link add eth0 netns ba type veth peer name eth0 netns bb");
    for (host, number) in [(&a, 1), (&b, 2)] {
        host.sh(&format!("ip addr add 10.9.0.{number}/24 dev eth0 && ip link set eth0 up"));
    }
    let mut all: Vec<(&str, Vec<Run>)> = Vec::new();
    all.push(("veth", bare(&settings, &a, &b)));
    all.push(("warren", warren(&settings, &a, &b)));
    for name in ["gotatun", "boringtun"] {
        match other(&settings, &a, &b, name) {
            Ok(runs) => all.push((name, runs)),
            Err(reason) => eprintln!("{name}: SKIPPED: {reason}"),
        }
    }
    print(&settings, &all);
    let _ = std::fs::remove_dir_all(&folder);
    ExitCode::SUCCESS
}

fn bare(settings: &Settings, a: &Machine, b: &Machine) -> Vec<Run> {
    a.sh("ip link set eth0 mtu 1420");
    b.sh("ip link set eth0 mtu 1420");
    let runs = measure(settings, a, b, "10.9.0.2", &[]);
    a.sh("ip link set eth0 mtu 1500");
    b.sh("ip link set eth0 mtu 1500");
    runs
}

fn warren(settings: &Settings, a: &Machine, b: &Machine) -> Vec<Run> {
    let control = Control::start(a, "control", "10.9.0.1:8080", &[]);
    let key = control.key("bench");
    let mtu = ["--mtu", "1420"];
    let nodes = [Node::start(a, "node", Mode::Kernel, &mtu), Node::start(b, "node", Mode::Kernel, &mtu)];
    for (node, name) in nodes.iter().zip(["a", "b"]) {
        node.up(&control.url, &key, &["--hostname", name]);
    }
    let ip = nodes[1].ip4();
    till(PATIENCE, "a direct path", || {
        let pong = nodes[0].ping_once("b")?;
        let direct = pong["Endpoint"].as_str().is_some_and(|endpoint| !endpoint.is_empty());
        direct.then_some(()).ok_or_else(|| pong.to_string())
    });
    let runs = measure(settings, a, b, &ip, &[&nodes[0].process, &nodes[1].process]);
    for node in &nodes {
        if let Ok(counters) = node.try_ask(&["debug", "counters"]) {
            eprintln!("warren {}: {}", node.machine.name(), in_words(&counters));
        }
    }
    runs
}

/// Whether bursts travel as bursts, and what was dropped.
fn in_words(counters: &str) -> String {
    let counters: Value = serde_json::from_str(counters).unwrap_or_default();
    let sum = |what: &str| -> u64 {
        counters["sockets"].as_array().into_iter().flatten().filter_map(|socket| socket[what].as_u64()).sum()
    };
    let per = |many: &str, one: &str| sum(many) as f64 / sum(one).max(1) as f64;
    let dropped: Vec<String> = counters["dropped"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, count)| count.as_u64() != Some(0))
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    format!(
        "{} datagrams sent, {:.1} a message, {:.1} a send call; {} received, {:.1} a receive call; segmentation refused \
         {} times; dropped: {}",
        sum("sent_datagrams"),
        per("sent_datagrams", "sent_messages"),
        per("sent_datagrams", "send_calls"),
        sum("received_datagrams"),
        per("received_datagrams", "receive_calls"),
        sum("gso_refusals"),
        if dropped.is_empty() { "nothing".to_string() } else { dropped.join(", ") },
    )
}

/// Another user-space WireGuard with the classic configuration socket, driven by `wg`.
fn other(settings: &Settings, a: &Machine, b: &Machine, name: &str) -> Result<Vec<Run>, String> {
    let tools = settings.tools.as_ref().ok_or("no folder of tools (WARREN_BENCH_TOOLS)")?;
    let program =
        [format!("{name}-cli"), name.to_string()].into_iter().map(|file| tools.join(file)).find(|path| path.exists());
    let program = program.ok_or_else(|| format!("{} holds no {name}-cli", tools.display()))?;
    let mut processes: Vec<Process> = Vec::new();
    let mut keys = Vec::new();
    for (host, number) in [(a, 1), (b, 2)] {
        let interface = format!("wg{number}");
        processes.push(host.start(name, &program, &["--foreground", "--disable-drop-privileges", &interface]));
        till(PATIENCE, &format!("the interface of {name}"), || {
            let out = host.try_sh(&format!("ip link show {interface} && wg show {interface}"));
            out.status.success().then_some(()).ok_or_else(|| String::from_utf8_lossy(&out.stderr).into_owned())
        });
        let private = host.sh("wg genkey").trim().to_string();
        std::fs::write(host.folder().join("key"), &private).map_err(|error| error.to_string())?;
        keys.push(host.sh("wg pubkey < key").trim().to_string());
        host.sh(&format!("wg set {interface} private-key key listen-port 51820"));
    }
    for (host, number, other) in [(a, 1, 2), (b, 2, 1)] {
        host.sh(&format!(
            "wg set wg{number} peer {} allowed-ips 10.10.0.{other}/32 endpoint 10.9.0.{other}:51820 && \
             ip addr add 10.10.0.{number}/24 dev wg{number} && ip link set wg{number} mtu 1420 up",
            keys[other - 1]
        ));
    }
    let runs = measure(settings, a, b, "10.10.0.2", &[&processes[0], &processes[1]]);
    drop(processes);
    Ok(runs)
}

fn measure(settings: &Settings, a: &Machine, b: &Machine, target: &str, tunnel: &[&Process]) -> Vec<Run> {
    let _server = b.start("iperf3", "iperf3", &["-s"]);
    till(PATIENCE, "iperf3 to listen", || {
        a.try_sh(&format!("iperf3 -c {target} -t 1 >/dev/null"))
            .status
            .success()
            .then_some(())
            .ok_or("not yet".to_string())
    });
    let mut runs = Vec::new();
    for _ in 0..settings.runs {
        let ping = a.sh(&format!("ping -q -i 0.002 -c 500 {target} >/dev/null; ping -i 0.002 -c 500 {target}"));
        let mut times: Vec<f64> = ping
            .lines()
            .filter_map(|line| line.split("time=").nth(1)?.split(' ').next()?.parse::<f64>().ok())
            .map(|milliseconds| milliseconds * 1e3)
            .collect();
        times.sort_by(f64::total_cmp);
        let at = |part: f64| times.get((times.len() as f64 * part) as usize).copied().unwrap_or(f64::NAN);

        let before = cpu_seconds(tunnel);
        let text = a.sh(&format!("iperf3 -c {target} -t {} -J", settings.seconds));
        let cpu = cpu_seconds(tunnel) - before;
        let answer: Value = serde_json::from_str(&text).expect("iperf3 prints JSON");
        let received = answer["end"]["sum_received"]["bytes"].as_f64().unwrap_or(0.0);
        let took = answer["end"]["sum_received"]["seconds"].as_f64().unwrap_or(f64::NAN);
        runs.push(Run {
            goodput_mbit: received * 8.0 / took / 1e6,
            cpu_per_gb: cpu / (received / 1e9),
            rtt_p50_us: at(0.5),
            rtt_p99_us: at(0.99),
            rss_mib: tunnel.iter().fold(0.0, |sum, process| sum + rss_mib(process.pid())),
        });
    }
    runs
}

/// User and system time of these processes and their children, or of the whole machine if there are none. Seconds.
fn cpu_seconds(processes: &[&Process]) -> f64 {
    let ticks_per_second = 100.0;
    if processes.is_empty() {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let fields: Vec<f64> = text
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .filter_map(|field| field.parse().ok())
            .collect();
        // user nice system, then irq softirq: everything but idle and waiting.
        return [0, 1, 2, 5, 6].iter().filter_map(|at| fields.get(*at)).sum::<f64>() / ticks_per_second;
    }
    processes
        .iter()
        .map(|process| {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap_or_default();
            let after = stat.rsplit(')').next().unwrap_or_default();
            let fields: Vec<f64> = after.split_whitespace().filter_map(|field| field.parse().ok()).collect();
            // Fields 14 and 15 of proc(5); the state letter before them does not parse, so they are at 10 and 11 here.
            (fields.get(10).copied().unwrap_or(0.0) + fields.get(11).copied().unwrap_or(0.0)) / ticks_per_second
        })
        .sum()
}

fn rss_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|text| text.trim().trim_end_matches(" kB").parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

type Metric = (&'static str, &'static str, fn(&Run) -> f64);

const METRICS: [Metric; 5] = [
    ("goodput", "Mbit/s", |run| run.goodput_mbit),
    ("cpu_per_gb", "s/GB", |run| run.cpu_per_gb),
    ("rtt_p50", "us", |run| run.rtt_p50_us),
    ("rtt_p99", "us", |run| run.rtt_p99_us),
    ("rss", "MiB", |run| run.rss_mib),
];

fn print(settings: &Settings, all: &[(&str, Vec<Run>)]) {
    let figures = |runs: &[Run], value: fn(&Run) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        (values[values.len() / 2], values[0], values[values.len() - 1])
    };
    if settings.json {
        for (subject, runs) in all {
            for (metric, unit, value) in METRICS {
                let (median, min, max) = figures(runs, value);
                println!(
                    "{}",
                    json!({"bench": "tunnel", "subject": subject, "case": "tcp-1-mtu1420", "metric": metric,
                        "unit": unit, "median": median, "min": min, "max": max, "runs": runs.len()})
                );
            }
        }
        return;
    }
    println!(
        "| subject | goodput Mbit/s | CPU s/GB | ping p50 µs | ping p99 µs | memory MiB |\n|---|---|---|---|---|---|"
    );
    for (subject, runs) in all {
        let cells: Vec<String> =
            METRICS.iter().map(|(_, _, value)| format!("{:.1}", figures(runs, *value).0)).collect();
        println!("| {subject} | {} |", cells.join(" | "));
    }
}
