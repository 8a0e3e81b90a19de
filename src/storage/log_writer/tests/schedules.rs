//! Every order in which a few changes of two groups can reach the writer, in every way in which they can be gathered,
//! also while a write is under way, with a power cut, a failing disk or the writer's end at every point.
//!
//! Why not loom or shuttle: the writer is one task, and all that it shares are tokio's queue and one mutex that is held
//! for a single map operation. loom cannot look into tokio's queue. shuttle has a tokio of its own (`shuttle-tokio`), whose
//! queue is another; and it tries schedules at random or up to a bound, where what can differ in the writer is only the
//! order in which changes leave the queue, how many leave it together, and where it ends. These are few for a few changes,
//! so here they are all tried: on one thread the writer runs only where this test yields to it, and takes all that was
//! submitted up to then.

use std::future::Future;
use std::pin::Pin;

use futures::poll;

use super::gated::Gate;
use super::model::{Log, Step};
use super::*;
use crate::storage::interposed::Interposed;
use Step::{Append, Purge, Remove, Truncate, Vote};

/// A group's change.
type Change = (GroupId, Step);

/// What two groups have changed, each in its order. Each pair has as many changes.
const SCRIPTS: [[&[Step]; 2]; 4] = [
    [&[Vote(1), Append(0, 3), Truncate(0)], &[Vote(1), Append(0, 3), Truncate(0)]],
    [&[Vote(1), Append(0, 3), Truncate(0)], &[Append(0, 3), Purge(1), Remove]],
    [&[Append(0, 3), Remove, Vote(2)], &[Append(0, 3), Purge(5), Append(6, 8)]],
    [&[Append(0, 3), Purge(1), Remove, Append(0, 3), Purge(0)], &[Vote(1)]],
];
const CHANGES: usize = 6;

/// All orders that keep each group's own.
fn orders(scripts: [&[Step]; 2]) -> Vec<Vec<Change>> {
    let [first, other] = scripts;
    let Some((step, rest)) = first.split_first() else {
        return vec![other.iter().map(|step| (OTHER, *step)).collect()];
    };
    let mut found = Vec::new();
    for before in 0..=other.len() {
        let (earlier, later) = other.split_at(before);
        let begin: Vec<Change> = earlier.iter().map(|step| (OTHER, *step)).collect();
        for end in orders([rest, later]) {
            found.push([&begin[..], &[(GROUP, *step)], &end].concat());
        }
    }
    found
}

/// When what happens. Places are numbers of changes.
#[derive(Clone, Debug)]
struct Schedule {
    order: Vec<Change>,
    /// Bit `n` says that the writer runs behind change `n`.
    breaks: usize,
    /// Whether the writer is asked to end in front of a change.
    closes_before: Option<usize>,
    disk: Disk,
}

/// How the disk behaves.
#[derive(Clone, Copy, Debug)]
enum Disk {
    Sound,
    /// The writer's next write fails from this change on.
    FailsBefore(usize),
    /// The write that begins behind change `from` ends behind `to`, or is under way when the power is cut.
    Busy {
        from: usize,
        to: Option<usize>,
        at: Gate,
        fails: bool,
    },
}

/// Every way in which the writer can come to run, and a failing disk or a request to end at every place. Behind that one
/// turn is left to be tried: the rest is refused, whenever it comes.
fn schedules_at_once(order: &[Change]) -> impl Iterator<Item = Schedule> {
    let breaks = 0..1usize << CHANGES;
    let sound = breaks.clone().map(|breaks| (breaks, None, Disk::Sound));
    let ended = (0..CHANGES).flat_map(move |at| {
        let fits = move |breaks: &usize| (breaks >> at).count_ones() <= 1;
        breaks.clone().filter(fits).flat_map(move |breaks| {
            [(breaks, None, Disk::FailsBefore(at)), (breaks, Some(at), Disk::Sound)]
        })
    });
    sound.chain(ended).map(|(breaks, closes_before, disk)| Schedule {
        order: order.to_vec(),
        breaks,
        closes_before,
        disk,
    })
}

/// Every way in which a write can be under way while changes arrive, or a request to end in front of all of these. The
/// writer runs behind the changes at which the write begins and ends: later is one of the other ways, and between the
/// two it waits for the disk.
fn schedules_of_a_busy_disk(order: &[Change]) -> impl Iterator<Item = Schedule> {
    let ends = |from| (from + 1..CHANGES).map(Some).chain([None]);
    let spans = (0..CHANGES).flat_map(move |from| ends(from).map(move |to| (from, to)));
    let writes = spans.flat_map(|(from, to)| {
        let busy = move |at, fails| Disk::Busy { from, to, at, fails };
        let ends = [
            (busy(Gate::BeforeIt, false), None),
            (busy(Gate::BeforeIt, false), Some(from + 1)),
            (busy(Gate::BehindIt, false), None),
        ];
        let failing = to.map(|_| (busy(Gate::BeforeIt, true), None));
        ends.into_iter().chain(failing).map(move |how| (from, to, how))
    });
    writes.flat_map(move |(from, to, (disk, closes_before))| {
        let runs = |breaks: usize, at: usize| breaks & (1 << at) != 0;
        let fits = move |breaks: &usize| {
            let mut between = from + 1..to.unwrap_or(CHANGES);
            let ends = to.is_none_or(|to| runs(*breaks, to));
            runs(*breaks, from) && ends && !between.any(|at| runs(*breaks, at))
        };
        (0..1usize << CHANGES).filter(fits).map(move |breaks| Schedule {
            order: order.to_vec(),
            breaks,
            closes_before,
            disk,
        })
    })
}

/// A writer on a disk that can be made to wait.
struct Run<'a> {
    schedule: &'a Schedule,
    fixture: Fixture,
    gate: watch::Sender<Gate>,
    reports: Arc<Mutex<Vec<(Change, bool)>>>,
    closing: Option<Pin<Box<dyn Future<Output = ()>>>>,
    has_ended: bool,
}

impl Run<'_> {
    fn begin(schedule: &Schedule) -> Run<'_> {
        let disk = MemoryDisk::new(Database::Log);
        let (gate, at) = watch::channel(Gate::Open);
        let engine = Interposed { below: Arc::new(disk.open()), by: at };
        let fixture = start_on(disk, Arc::new(engine));
        Run { schedule, fixture, gate, reports: Arc::default(), closing: None, has_ended: false }
    }

    /// Lets the writer take what waits and report it.
    async fn let_it_write(&mut self) {
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        self.look_at_the_end().await;
    }

    async fn look_at_the_end(&mut self) {
        if let Some(closing) = &mut self.closing
            && poll!(closing).is_ready()
        {
            (self.closing, self.has_ended) = (None, true);
        }
    }

    async fn submit(&mut self, at: usize) {
        match self.schedule.disk {
            Disk::FailsBefore(before) if before == at => self.fixture.disk.set_failing(Some("EIO")),
            _ => {}
        }
        if self.schedule.closes_before == Some(at) {
            let writer = self.fixture.writer.clone();
            self.closing = Some(Box::pin(async move { writer.close().await }));
            self.look_at_the_end().await;
        }
        let changed = self.schedule.order[at];
        let reports = self.reports.clone();
        let done: Done = Box::new(move |result| {
            reports.lock().unwrap().push((changed, result.is_ok()));
        });
        let (group, step) = changed;
        self.fixture.writer.submit(step.of(group, done)).await;
    }

    /// What comes between two changes.
    async fn pass(&mut self, at: usize) {
        match self.schedule.disk {
            Disk::Busy { from, at: gate, .. } if from == at => drop(self.gate.send_replace(gate)),
            Disk::Busy { to: Some(to), fails, .. } if to == at => {
                self.fixture.disk.set_failing(fails.then_some("EIO"));
                self.gate.send_replace(Gate::Open);
            }
            _ => {}
        }
        if self.schedule.breaks & (1 << at) != 0 {
            self.let_it_write().await;
        }
    }

    /// Checks what a power cut leaves.
    fn check(&self) {
        let Run { schedule, fixture, .. } = self;
        let order = &schedule.order;
        let by_then = self.reports.lock().unwrap().clone();
        // Reported in the order submitted, and after a failure nothing is reported done.
        let all: Vec<Change> = by_then.iter().map(|(changed, _)| *changed).collect();
        assert_eq!(all, order[..all.len()], "{schedule:?}");
        let done = by_then.iter().take_while(|(_, is_done)| *is_done).count();
        assert!(by_then[done..].iter().all(|(_, is_done)| !is_done), "{by_then:?}");
        // What may have been begun, and what of it is there all the same.
        let (begun, there) = match schedule.disk {
            Disk::Busy { from, to: None, at, .. } if done <= from => {
                (from + 1, if at == Gate::BehindIt { from + 1 } else { done })
            }
            _ => (by_then.len(), done),
        };
        let stored = fixture.stored();
        for group in GROUPS {
            let of = |changes: &[Change]| {
                let steps = changes.iter().filter(|(of, _)| *of == group);
                Log::after(steps.map(|(_, step)| *step))
            };
            let held = of(&order[..there]);
            assert_eq!(Log::stored(fixture, group), held, "group {group} of {schedule:?}");
            let mark = stored.groups.get(&group).cloned().unwrap_or_default();
            // A vote is in the watermark before it is answered, until the group is about to go, and the watermark claims
            // no more than there is.
            let goes = order[done..begun].contains(&(group, Remove));
            let answered = of(&order[..done]).mark().vote;
            assert!(mark.vote == answered || goes && mark.vote.is_none(), "{mark:?} {schedule:?}");
            let index = |mark: &GroupMark| mark.last.map(|last| last.index);
            assert!(index(&mark) <= index(&held.mark()), "{mark:?} {held:?} {schedule:?}");
            if self.has_ended && Some(done) == schedule.closes_before {
                assert_eq!(mark, held.mark(), "it says all that there is: {schedule:?}");
            }
        }
    }
}

const GROUPS: [GroupId; 2] = [GROUP, OTHER];

/// The power is cut behind the last change, without a further turn for the writer.
async fn run(schedule: &Schedule) {
    let mut run = Run::begin(schedule);
    for at in 0..CHANGES {
        run.submit(at).await;
        run.pass(at).await;
    }
    run.fixture.disk.set_failing(None);
    run.fixture.disk.crash();
    run.check();
    run.gate.send_replace(Gate::Open);
    run.let_it_write().await;
    if let Some(closing) = run.closing.take() {
        closing.await;
    }
    run.fixture.writer.close().await;
    assert_eq!(run.reports.lock().unwrap().len(), CHANGES, "each is reported once");
}

#[tokio::test]
async fn every_schedule_keeps_order_and_loses_nothing_reported() {
    let (mut at_once, mut busy) = (0, 0);
    for order in SCRIPTS.into_iter().flat_map(orders) {
        for schedule in schedules_at_once(&order) {
            run(&schedule).await;
            at_once += 1;
        }
        for schedule in schedules_of_a_busy_disk(&order) {
            run(&schedule).await;
            busy += 1;
        }
    }
    let orders = 20 + 20 + 20 + 6;
    assert_eq!((at_once, busy), (orders * 430, orders * 705));
}
