//! A node of a simulation: the product, on simulated ground.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use quorate::consensus::MemoryLimits;
use quorate::server::{Config, ConnectionsMax, Ground, Metrics, run_on};
use quorate::service::AllowAll;
use tokio::runtime::Handle;
use turmoil::Sim;

use crate::ground::{CLIENT_PORT, HTTP_PORT, Machine, PEER_PORT, SimDial, listen};

/// How a node keeps its data.
#[derive(Clone, Copy)]
pub struct Manners {
    /// Time between flushes.
    pub flush_interval_ms: u64,
    /// How much log is kept behind them.
    pub log_keep_bytes: u64,
    /// How much memory there is for what nodes are asked.
    pub memory: MemoryLimits,
}

/// The least that there can be: so that groups are parked in the spells in which clients rest.
const PARK_AFTER_MS: u64 = 1_000;

/// Why a node has ended that stopped in good order.
pub const ASKED_TO: &str = "it was asked to";

/// Nodes whose process has ended by itself, and why.
pub type Ended = Rc<RefCell<BTreeMap<u64, String>>>;

/// Adds a node to the simulation. When it ends by itself, that is noted.
pub fn add(sim: &mut Sim<'static>, machine: Machine, ended: Ended, manners: Manners) {
    sim.host(machine.name(), move || {
        let (machine, ended) = (machine.clone(), ended.clone());
        async move {
            let node = machine.node.0.into();
            let why = match serve(machine, manners).await {
                Ok(()) => ASKED_TO.to_owned(),
                Err(error) => format!("{error:#}"),
            };
            tracing::warn!(node, why, "the node has ended");
            ended.borrow_mut().insert(node, why);
            Ok(())
        }
    });
}

/// The product, on simulated ground.
async fn serve(machine: Machine, manners: Manners) -> anyhow::Result<()> {
    let name = machine.name();
    let settings = [
        ("NODE_ID", machine.node.to_string()),
        ("DATA_DIR", "simulated".to_owned()),
        ("CLIENT__LISTEN", format!("0.0.0.0:{CLIENT_PORT}")),
        ("CLIENT__ADVERTISE", format!("{name}:{CLIENT_PORT}")),
        ("CLIENT__INSECURE", "true".to_owned()),
        ("PEER__LISTEN", format!("0.0.0.0:{PEER_PORT}")),
        ("PEER__ADVERTISE", format!("{name}:{PEER_PORT}")),
        ("PEER__INSECURE", "true".to_owned()),
        ("HTTP__LISTEN", format!("0.0.0.0:{HTTP_PORT}")),
        ("HTTP__ADVERTISE", format!("{name}:{HTTP_PORT}")),
        ("HTTP__INSECURE", "true".to_owned()),
        ("RAFT__PARK_AFTER_MS", PARK_AFTER_MS.to_string()),
        ("STORAGE__BALLAST_BYTES", "0".to_owned()),
        ("STORAGE__FLUSH_INTERVAL_MS", manners.flush_interval_ms.to_string()),
        ("STORAGE__LOG_KEEP_BYTES", manners.log_keep_bytes.to_string()),
    ];
    let settings = settings.map(|(key, value)| (format!("QUORATE_{key}"), value));
    let config = Config::load_with(None, settings)?;
    let listeners = listen().await?;
    let metrics = Arc::new(Metrics::new());
    let ground = Ground {
        clients: Handle::current(),
        dial: Some(Arc::new(SimDial)),
        storage: machine.open(&metrics)?,
        metrics,
        clock: machine.clock(),
        authorizer: Arc::new(AllowAll),
        connections: ConnectionsMax::MOST,
        memory: manners.memory,
    };
    run_on(listeners, ground, config, machine.new_stop_token()).await
}
