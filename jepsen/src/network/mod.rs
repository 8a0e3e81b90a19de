//! How nodes and clients reach each other: each in a network namespace with an address of its own, joined by a switch
//! that can break; or all on loopback, where nothing of the network can be broken.

mod link;
mod packet;
mod switch;

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::Serialize;

pub use link::{CLIENTS, Counts, Direction, Link, Place};
pub use switch::Switch;

use crate::programs::run;

/// How nodes reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum NetworkKind {
    /// Each in a network namespace of its own, joined by a switch
    Namespaces,
    /// All on 127.0.0.1, with ports of their own
    Loopback,
}

/// Where a node listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Of all its ports.
    pub ip: Ipv4Addr,
    /// For clients.
    pub client: u16,
    /// For nodes.
    pub peer: u16,
    /// For metrics and probes.
    pub http: u16,
}

/// The network of a run.
pub struct Network {
    addresses: Vec<Addresses>,
    switch: Option<Switch>,
}

/// Where `ip netns` keeps its names: in a file system of the run's own.
const NAMESPACES: &str = "/run/netns";
const PORT_CLIENT: u16 = 7101;
const PORT_PEER: u16 = 7201;
const PORT_HTTP: u16 = 7301;

impl Network {
    /// Makes the network for the nodes 1 to `nodes`. Namespaces are made inside those that this process is in, which
    /// have to be its own.
    ///
    /// # Errors
    ///
    /// If a namespace, a device or a free port cannot be had.
    pub async fn make(kind: NetworkKind, nodes: u32, seed: u64) -> anyhow::Result<Network> {
        match kind {
            NetworkKind::Loopback => Network::on_loopback(nodes).await,
            NetworkKind::Namespaces => Network::of_namespaces(nodes, seed).await,
        }
    }

    async fn on_loopback(nodes: u32) -> anyhow::Result<Network> {
        // Held together, so that no port is handed out twice.
        let mut taken = Vec::new();
        let mut addresses = Vec::new();
        for _ in 0..nodes {
            let mut ports = [0; 3];
            for port in &mut ports {
                let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
                *port = listener.local_addr()?.port();
                taken.push(listener);
            }
            let [client, peer, http] = ports;
            addresses.push(Addresses { ip: Ipv4Addr::LOCALHOST, client, peer, http });
        }
        Ok(Network { addresses, switch: None })
    }

    async fn of_namespaces(nodes: u32, seed: u64) -> anyhow::Result<Network> {
        run("mount", ["-t", "tmpfs", "quorate-jepsen", "/run"]).await?;
        run("mkdir", ["-p", NAMESPACES]).await?;
        run("ip", ["link", "set", "lo", "up"]).await?;
        let mut ports = Vec::new();
        let mut addresses = Vec::new();
        for place in 0..=nodes {
            let device = format!("quorate{place}");
            let address = address_of(place);
            ports.push(switch::Port { place, address, device: switch::device(&device)? });
            let namespace = name_of(place);
            let inside: &[&str] = if place == CLIENTS { &[] } else { &["-n", &namespace] };
            if place != CLIENTS {
                run("ip", ["netns", "add", &namespace]).await?;
                run("ip", ["link", "set", &device, "netns", &namespace]).await?;
                run("ip", ["-n", &namespace, "link", "set", "lo", "up"]).await?;
                let (client, peer, http) = (PORT_CLIENT, PORT_PEER, PORT_HTTP);
                addresses.push(Addresses { ip: address, client, peer, http });
            }
            let range = format!("{address}/24");
            let assign = ["addr", "add", &range, "dev", &device];
            run("ip", inside.iter().copied().chain(assign)).await?;
            let raise = ["link", "set", &device, "up"];
            run("ip", inside.iter().copied().chain(raise)).await?;
        }
        Ok(Network { addresses, switch: Some(Switch::start(ports, seed)) })
    }

    /// Where a node listens.
    pub fn addresses(&self, node: u32) -> Addresses {
        self.addresses[node as usize - 1]
    }

    /// The network namespace in which a node's process is to start; none on loopback.
    pub fn namespace(&self, node: u32) -> Option<PathBuf> {
        self.switch.as_ref().map(|_| PathBuf::from(NAMESPACES).join(name_of(node)))
    }

    /// The switch; none on loopback.
    pub fn switch(&self) -> Option<&Switch> {
        self.switch.as_ref()
    }
}

fn name_of(place: Place) -> String {
    format!("node{place}")
}

/// 10.99.0.N for node N. Nothing outside the run's namespaces sees these addresses.
fn address_of(place: Place) -> Ipv4Addr {
    let last = if place == CLIENTS { 254 } else { place as u8 };
    Ipv4Addr::new(10, 99, 0, last)
}
