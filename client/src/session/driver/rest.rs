//! Lanes that rest after a failure, and when they go on.

use tokio::time::Instant;

use super::{Driver, LaneId};
use crate::Error;

impl Driver {
    /// Lets a lane rest after a failure, or sends at once where that is right.
    pub(super) fn pause_for(&mut self, id: LaneId, error: &Error) {
        let Some(traffic) = self.lanes.get_mut(&id) else { return };
        let delay = traffic.backoff.next_delay(error);
        traffic.until_led = error.is_of_reach();
        if delay.is_zero() {
            self.send(id);
        } else {
            self.pause(id, Instant::now() + delay);
        }
    }

    pub(super) fn pause(&mut self, id: LaneId, until: Instant) {
        let Some(traffic) = self.lanes.get_mut(&id) else { return };
        if let Some(before) = traffic.paused_until.replace(until) {
            self.paused.remove(&(before, id));
        }
        self.paused.insert((until, id));
    }

    pub(super) fn resume_paused(&mut self, now: Instant) {
        while self.paused.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, id)) = self.paused.pop_first() else { return };
            self.resume(id);
        }
    }

    /// Lanes that rest because their leader was out of reach go on once there is one that is not passed over.
    pub(super) fn resume_led(&mut self) {
        let mut sooner = Vec::new();
        for (until, id) in &self.paused {
            let Some(traffic) = self.lanes.get(id).filter(|traffic| traffic.until_led) else {
                continue;
            };
            let router = &self.client.shared.router;
            let usable_at = router.leader_usable_at(&traffic.conversation);
            sooner.extend(usable_at.filter(|at| at < until).map(|at| (*id, at)));
        }
        for (id, at) in sooner {
            self.pause(id, at);
        }
    }

    fn resume(&mut self, id: LaneId) {
        if let Some(traffic) = self.lanes.get_mut(&id) {
            traffic.paused_until = None;
            self.send(id);
        }
    }
}
