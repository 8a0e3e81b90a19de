//! What is measured: a cluster that runs, or one of the command's own.

use clap::Args;
use quorate_client::{Client, Routing};
use serde_json::Value;

use super::cost::Meter;
use super::local::{Local, LocalArgs};
use crate::cli::{ConnectArgs, Output};

/// What is measured.
#[derive(Clone, Debug, Args)]
pub(super) struct TargetArgs {
    /// Measure a cluster that this command starts on this machine, and not the one at --endpoints
    #[arg(long)]
    local: bool,

    #[command(flatten)]
    options: LocalArgs,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// The cluster that is measured.
pub(super) struct Target {
    connect: ConnectArgs,
    local: Option<Local>,
}

impl TargetArgs {
    pub(super) async fn start(&self, output: Output) -> anyhow::Result<Target> {
        let mut connect = self.connect.clone();
        let mut local = None;
        if self.local {
            let started = self.options.start(output).await?;
            connect.endpoints = started.cluster.endpoints();
            local = Some(started);
        }
        Ok(Target { connect, local })
    }
}

impl Target {
    /// Of a local cluster, with these options of how to reach it.
    pub(super) fn of(local: Local, connect: &ConnectArgs) -> Target {
        let connect = ConnectArgs { endpoints: local.cluster.endpoints(), ..connect.clone() };
        Target { connect, local: Some(local) }
    }

    /// A client of its own, with connections of its own.
    pub(super) async fn client(&self) -> anyhow::Result<Client> {
        self.connect.client().await
    }

    /// A client of its own that stays with one endpoint, of several with the next for each number, and has it hand on.
    pub(super) async fn client_through(&self, number: u32) -> anyhow::Result<Client> {
        let mut connect = self.connect.clone();
        let next = number as usize % connect.endpoints.len().max(1);
        connect.endpoints.rotate_left(next);
        connect.client_routed(Routing::Proxy).await
    }

    /// How it is reached.
    pub(super) fn connect(&self) -> &ConnectArgs {
        &self.connect
    }

    /// The cluster, if it is the command's own.
    pub(super) fn local(&mut self) -> Option<&mut Local> {
        self.local.as_mut()
    }

    /// Counts its processor time from now on, if it is the command's own.
    pub(super) fn meter(&self) -> anyhow::Result<Option<Meter>> {
        self.local.as_ref().map(Meter::start).transpose()
    }

    /// Stops what was started and says what it used; nothing of a cluster of others.
    pub(super) async fn finish(self, payload_bytes: u64, flushed: bool) -> anyhow::Result<Value> {
        let client = self.client().await?;
        match self.local {
            Some(local) => local.finish(&client, payload_bytes, flushed).await,
            None => Ok(Value::Null),
        }
    }

    /// Stops what was started.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        match self.local {
            Some(local) => local.stop().await,
            None => Ok(()),
        }
    }
}
