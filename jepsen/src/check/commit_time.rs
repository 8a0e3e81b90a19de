//! Commit times do not go back within a conversation.

use super::evidence::sighting;
use super::{Checker, Findings, Guarantee, described};
use crate::model::Model;

/// See the module.
pub struct CommitTime;

impl Checker for CommitTime {
    fn name(&self) -> &'static str {
        "commit-time"
    }

    fn guarantees(&self) -> &'static [Guarantee] {
        &[Guarantee::G2]
    }

    fn rule(&self) -> &'static str {
        "No message has an earlier commit time than one at a lower seq of its conversation."
    }

    fn check(&self, model: &Model, findings: &mut Findings) {
        let seen =
            model.places().iter().filter_map(|place| Some((place.conversation, place.record?)));
        let mut latest: Option<(u32, u32)> = None;
        for (conversation, id) in seen {
            findings.look_at(Guarantee::G2, 1);
            let time = |id: u32| model.record(id).commit_time_us;
            let before = latest.filter(|(of, _)| *of == conversation).map(|(_, id)| id);
            if let Some(before) = before.filter(|before| time(*before) > time(id)) {
                findings.violation(Guarantee::G2, || {
                    let what = format!("commit times of {} go back", model.name(conversation));
                    described(what, [sighting(model, before), sighting(model, id)])
                });
            } else {
                latest = Some((conversation, id));
            }
        }
    }
}
