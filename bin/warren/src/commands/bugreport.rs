//! `warren bugreport`: what a helper needs to know about this node, on standard output and nowhere else.

use anyhow::Result;
use clap::Args;
use serde_json::Value;
use warren_api::local::Client;

use super::version::VERSION;

#[derive(Args, Clone, Debug, Default)]
pub struct BugReport {
    /// Names, addresses and keys of other machines too
    #[arg(long)]
    diagnose: bool,
    /// What happened, in your words; it goes into the report
    note: Option<String>,
}

/// Nothing is sent anywhere: a person reads it and decides whom to give it.
pub async fn run(client: &Client, command: &BugReport) -> Result<()> {
    println!("warren bug report (printed here only; read it before you pass it on)");
    println!("version: {VERSION}");
    if let Some(note) = &command.note {
        println!("note: {note}");
    }
    match client.status(true).await {
        Err(error) => println!("daemon: {}", crate::safe::lines(&error.to_string())),
        Ok(status) => {
            println!(
                "daemon: version {}, state {}, interface {}",
                status.warren_version, status.backend_state, status.tun
            );
            for problem in &status.health {
                println!("health: {}", crate::safe::line(problem));
            }
            let peers = status.peer.as_ref().map_or(0, |peers| peers.len());
            println!("peers: {peers}");
            if command.diagnose {
                println!("status: {}", crate::safe::json(&status)?);
            }
        }
    }
    match client.counters().await {
        Err(error) => println!("counters: {}", crate::safe::lines(&error.to_string())),
        Ok(counters) => println!("counters: {}", crate::safe::json(&without_addresses(counters))?),
    }
    Ok(())
}

/// Where sockets are bound says nothing of a fault, and something of the machine.
fn without_addresses(mut counters: Value) -> Value {
    for socket in counters["sockets"].as_array_mut().into_iter().flatten() {
        if let Some(fields) = socket.as_object_mut() {
            fields.remove("bound");
        }
    }
    counters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_sockets_are_left_out_and_their_numbers_stay() {
        let counters = serde_json::json!({"runs": 1, "sockets": [{"bound": "192.0.2.1:41641", "sent_datagrams": 2}]});
        let expect = serde_json::json!({"runs": 1, "sockets": [{"sent_datagrams": 2}]});
        assert_eq!(without_addresses(counters), expect);
        assert_eq!(without_addresses(Value::Null)["x"], Value::Null);
    }
}
