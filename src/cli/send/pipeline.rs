//! Many messages through one session: read, handed in and acknowledged at the same time, in bounded memory.

use std::process::ExitCode;
use std::time::Duration;

use indicatif::ProgressBar;
use quorate_client::{AppendHandle, Client, Session, SessionOptions, reason};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::one;
use super::outgoing::{Outgoing, Source};
use super::report::Report;
use crate::cli::Output;
use crate::cli::output::note;
use crate::server::shutdown;

/// Messages whose outcome was not looked at yet.
const OUTCOMES_MAX: usize = 1_024;

type Pending = (Outgoing, AppendHandle);

/// How a source is sent.
pub(super) struct Pipeline {
    pub(super) output: Output,
    /// Whether each acknowledgement is shown.
    pub(super) each: bool,
    /// How many messages there are, if that is known.
    pub(super) total: Option<u64>,
    /// How long one may take.
    pub(super) timeout: Duration,
}

impl Pipeline {
    /// Sends everything, as long as there is hope: what one conversation cannot take does not stop the others, a
    /// cluster that does not answer stops all.
    pub(super) async fn run(self, client: &Client, mut source: Source) -> anyhow::Result<ExitCode> {
        let options = SessionOptions { append_timeout: self.timeout, ..SessionOptions::default() };
        let session = client.session(options)?;
        let interrupted = shutdown::on_signal()?;
        let stop = interrupted.child_token();
        let (handles, outcomes) = mpsc::channel(OUTCOMES_MAX);
        let bar = self.progress();
        let mut report = Report::begin(&source);
        let (fed, collected) = tokio::join!(
            feed(&session, &mut source, handles, &stop),
            self.collect(outcomes, &mut report, &bar, &stop),
        );
        bar.finish_and_clear();
        report.finish(interrupted.is_cancelled());
        self.output.print(|| report.to_text(), || report.to_json())?;
        collected?;
        fed?;
        Ok(if report.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn progress(&self) -> ProgressBar {
        match self.total {
            Some(_) => self
                .output
                .progress(self.total, "{bar:40} {pos}/{len} acknowledged, {per_sec}, {eta} left"),
            None => self.output.progress(None, "{spinner} {pos} acknowledged, {per_sec}"),
        }
    }

    /// Takes the outcomes, in the order in which the messages were handed in.
    async fn collect(
        &self,
        mut outcomes: mpsc::Receiver<Pending>,
        report: &mut Report,
        bar: &ProgressBar,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        while let Some((message, handle)) = outcomes.recv().await {
            match handle.await {
                Ok(appended) => {
                    report.acknowledged(&message, &appended);
                    bar.inc(1);
                    if self.each {
                        bar.suspend(|| {
                            self.output.print(
                                || one::text(&message, &appended),
                                || one::to_json(&message, &appended),
                            )
                        })?;
                    }
                }
                Err(error) => {
                    if error.retryable() && error.reason() != reason::LANE_BROKEN {
                        stop.cancel();
                    }
                    if let Some(line) = report.failed(&message, &error)
                        && self.output == Output::Text
                    {
                        bar.suspend(|| note(&line));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Hands messages in, in order, until there are no more or it is told to stop.
async fn feed(
    session: &Session,
    source: &mut Source,
    handles: mpsc::Sender<Pending>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let feeding = async {
        while let Some(message) = source.next().await? {
            // A place first: whenever this is dropped, all that was handed in is with the collector.
            let Ok(place) = handles.reserve().await else { break };
            let handle = session.append(message.append()).await;
            place.send((message, handle));
        }
        Ok(())
    };
    stop.run_until_cancelled(feeding).await.unwrap_or(Ok(()))
}
