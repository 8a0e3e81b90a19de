//! What had certainly been committed by a time.

use crate::history::Nanos;
use crate::model::{Mark, Model, Name};

/// For each conversation, the tails that answers showed, by time.
pub struct Floor {
    /// By conversation and time; each has the highest tail so far.
    steps: Vec<Step>,
}

/// A tail that an answer showed.
#[derive(Clone, Copy)]
pub struct Step {
    conversation: Name,
    at: Nanos,
    /// Everything below was committed by then.
    pub tail: u64,
    /// The answer that shows it.
    pub shown: Mark,
}

impl Floor {
    /// From acknowledgements and reads at any level: a replica shows only what was committed.
    pub fn of(model: &Model) -> Self {
        let step =
            |conversation, tail, shown: Mark| Step { conversation, at: shown.at, tail, shown };
        let mut steps: Vec<Step> = Vec::new();
        for append in &model.appends {
            let appended = append.ending.ok();
            steps.extend(appended.map(|appended| {
                step(append.conversation, appended.last_seq.saturating_add(1), append.span.end())
            }));
        }
        for read in &model.reads {
            let answer = read.ending.ok();
            steps
                .extend(answer.map(|answer| step(read.conversation, answer.tail, read.span.end())));
        }
        steps.sort_unstable_by_key(|step| (step.conversation, step.at));
        for at in 1..steps.len() {
            let (before, step) = (steps[at - 1], &mut steps[at]);
            if before.conversation == step.conversation && before.tail > step.tail {
                (step.tail, step.shown) = (before.tail, before.shown);
            }
        }
        Self { steps }
    }

    /// The highest tail that was shown before `at`.
    pub fn before(&self, conversation: Name, at: Nanos) -> Option<Step> {
        let end = self.steps.partition_point(|s| (s.conversation, s.at) < (conversation, at));
        let step = self.steps[..end].last()?;
        (step.conversation == conversation).then_some(*step)
    }
}
