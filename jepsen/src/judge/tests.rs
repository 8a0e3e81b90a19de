//! Whole runs, from their record on disk to verdict, pages and exports.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use super::{RESULTS, Results, Verdict, judge};
use crate::check::Guarantee;
use crate::check::tests::simulate::{Simulated, simulate};
use crate::history::{
    Answer, AppendCall, Call, ENDED_BY_ITSELF, Event, EventKind, Fault, Led, ReadCall, Sent,
};
use crate::record::{HISTORY, LEADERS, Recorder};
use crate::report::index::{INDEX, SUMMARY, index};
use crate::report::page::PAGE;

fn record(dir: &Path, simulated: Simulated) {
    let recorder = Recorder::create(dir).unwrap();
    simulated.events.into_iter().for_each(|event| recorder.event(event));
    simulated.faults.into_iter().for_each(|fault| recorder.fault(fault));
    recorder.finish(&simulated.run).unwrap();
    fs::create_dir(dir.join("nodes")).unwrap();
    fs::write(dir.join("nodes/1.log"), "").unwrap();
}

fn long() -> Simulated {
    simulate(1, 2, 1_500)
}

/// An outcome query is told that a message stands where it does not.
fn lie(simulated: &mut Simulated) {
    for event in &mut simulated.events {
        if let EventKind::Ok(Answer::Outcome { seq: seq @ 1.., .. }) = &mut event.kind {
            *seq += 1;
            return;
        }
    }
    panic!("nobody asked");
}

#[test]
fn verdicts_are_valid_invalid_and_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let runs = ["a-valid", "b-invalid", "c-idle", "d-damaged"].map(|name| dir.path().join(name));
    let [valid, invalid, idle, damaged] = &runs;
    record(valid, long());
    let mut lying = long();
    lie(&mut lying);
    record(invalid, lying);
    let mut idling = long();
    idling.faults[0].effect = None;
    record(idle, idling);
    record(damaged, long());
    fs::write(damaged.join(HISTORY), "{\"at\":1\n").unwrap();

    let expected = [Verdict::Valid, Verdict::Invalid, Verdict::Unknown, Verdict::Unknown];
    for (run, verdict) in runs.iter().zip(expected) {
        let results = judge(run).unwrap();
        assert_eq!(results.verdict, verdict, "{run:?}: {:?}", results.doubts);
        let stored: Results =
            serde_json::from_str(&fs::read_to_string(run.join(RESULTS)).unwrap()).unwrap();
        assert_eq!(stored, results);
        let page = fs::read_to_string(run.join(PAGE)).unwrap();
        assert!(page.contains("href=\"./nodes/1.log\""), "nodes' logs are linked");
        assert!(page.contains(verdict.word()) && !page.contains("http"), "it needs nothing else");
    }
    assert_eq!(expected.map(Verdict::exit_code), [0, 1, 2, 2]);
    let why = &judge(damaged).unwrap().doubts[0];
    assert!(why.contains("history.jsonl:1 is damaged or cut off"), "{why}");
    assert_eq!(judge(idle).unwrap().doubts, ["the nemesis kill was never seen to take effect"]);

    let sum = index(dir.path()).unwrap();
    assert_eq!([sum.runs, sum.valid, sum.invalid, sum.unknown], [4, 1, 1, 2]);
    let page = fs::read_to_string(dir.path().join(INDEX)).unwrap();
    assert!(runs.iter().all(|run| page.contains(run.file_name().unwrap().to_str().unwrap())));
}

#[test]
fn the_page_shows_who_led_where_that_was_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::create(dir.path()).unwrap();
    let led = |at, leader, term| Led { at, group: 7, leader, term };
    let all = [led(0, Some(2), 1), led(900, None, 2), led(1_000, Some(3), 2)];
    all.into_iter().for_each(|led| recorder.led(led));
    let simulated = long();
    simulated.events.into_iter().for_each(|event| recorder.event(event));
    simulated.faults.into_iter().for_each(|fault| recorder.fault(fault));
    recorder.finish(&simulated.run).unwrap();
    let page = || {
        assert_eq!(judge(dir.path()).unwrap().verdict, Verdict::Valid);
        fs::read_to_string(dir.path().join(PAGE)).unwrap()
    };
    let shown = page();
    assert!(shown.contains("node 2 leads group 7 from 0.000 s, term 1"));
    assert_eq!(shown.matches(" leads group 7 from ").count(), 2, "nobody led in between");
    assert!(shown.contains("href=\"./leaders.jsonl\""));
    fs::remove_file(dir.path().join(LEADERS)).unwrap();
    let shown = page();
    assert!(!shown.contains("leaders.jsonl") && !shown.contains("Leaders"));
}

#[test]
fn runs_are_summed_up_and_controls_apart() {
    let dir = tempfile::tempdir().unwrap();
    let [one, other, planted, cut_off] = ["1", "2", "3", "4"].map(|name| dir.path().join(name));
    record(&one, long());
    let mut two_faults = long();
    let more =
        Fault { effect: None, served_after: Some(4_000_000_000), ..two_faults.faults[0].clone() };
    let of_disk = Fault { nemesis: "fsync-error".to_owned(), served_after: None, ..more.clone() };
    let by_itself = Fault {
        nemesis: ENDED_BY_ITSELF.to_owned(),
        what: "exit code 1".to_owned(),
        ..of_disk.clone()
    };
    two_faults.faults.extend([more, of_disk, by_itself]);
    record(&other, two_faults);
    let mut lying = long();
    lie(&mut lying);
    lying.run.planted = Some("dedup_off".to_owned());
    record(&planted, lying);
    let [one, other, _] = [one, other, planted].map(|run| judge(&run).unwrap());
    fs::create_dir(&cut_off).unwrap();
    fs::write(cut_off.join(HISTORY), "").unwrap();

    let sum = index(dir.path()).unwrap();
    assert_eq!([sum.runs, sum.valid, sum.invalid, sum.unknown], [3, 2, 0, 1]);
    assert_eq!(sum.operations.all(), one.operations + other.operations);
    assert_eq!(sum.appends_acknowledged, one.acknowledged + other.acknowledged);
    assert_eq!([one.faults, other.faults], [1, 3]);
    assert_eq!([sum.faults_injected, sum.faults_took_effect, sum.ended_by_themselves], [4, 2, 1]);
    let kill = &sum.faults["kill"];
    assert_eq!((kill.measured, kill.served_after_p50_s), (3, Some(0.001)));
    assert_eq!((kill.served_after_p99_s, kill.served_after_max_s), (Some(4.0), Some(4.0)));
    // The lie about an outcome is not what finds a missing dedup.
    assert_eq!((sum.controls, sum.controls_missed.as_slice()), (1, &["dedup_off".to_owned()][..]));
    assert!(sum.violations.len() > 6 && sum.violations.values().all(|count| *count == 0));
    let lost = "| acknowledged messages lost | 0 |\n| acknowledged messages not looked for | 0 |";
    assert!(sum.markdown().contains(lost));
    let stored: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(dir.path().join(SUMMARY)).unwrap()).unwrap();
    assert_eq!(stored, serde_json::json!(sum));
}

#[test]
fn a_guarantee_that_nothing_happened_of_has_no_verdict_and_no_checker_that_looked() {
    let dir = tempfile::tempdir().unwrap();
    let mut quiet = long();
    let streams: HashSet<u64> = quiet
        .events
        .iter()
        .filter(|event| matches!(event.kind, EventKind::Invoke(Call::Follow(_))))
        .map(|event| event.process)
        .collect();
    quiet.events.retain(|event| !streams.contains(&event.process));
    quiet.run.workloads.retain(|name| !["follow", "subscribe"].contains(&name.as_str()));
    record(&dir.path().join("run"), quiet);
    let results = judge(&dir.path().join("run")).unwrap();
    assert_eq!(results.verdict, Verdict::Valid, "{:?}", results.doubts);
    let of = |wanted| results.judgements.iter().find(|one| one.guarantee == wanted).unwrap();
    let delivery = of(Guarantee::G6);
    assert_eq!((delivery.verdict, delivery.examined), (Verdict::Unknown, 0));
    assert!(delivery.checked_by.is_empty(), "{:?}", delivery.checked_by);
    assert_eq!(of(Guarantee::G2).verdict, Verdict::Valid);
    let sum = index(dir.path()).unwrap();
    assert!(!sum.violations.contains_key(&Guarantee::G6), "{:?}", sum.violations);
}

#[test]
fn what_nobody_looked_for_at_the_end_is_not_called_kept() {
    let dir = tempfile::tempdir().unwrap();
    let without_finals = |wanted: fn(&ReadCall) -> bool| {
        let mut unread = long();
        let of_the_end = |event: &&Event| match &event.kind {
            EventKind::Invoke(Call::Read(read)) => read.is_final && wanted(read),
            _ => false,
        };
        let gone: HashSet<u64> =
            unread.events.iter().filter(of_the_end).map(|event| event.process).collect();
        unread.events.retain(|event| !gone.contains(&event.process));
        unread
    };
    record(&dir.path().join("1"), without_finals(|read| read.conversation == "room-1"));
    let one = judge(&dir.path().join("1")).unwrap();
    assert_eq!((one.verdict, one.figures.messages_lost), (Verdict::Unknown, 0));
    assert!(one.figures.messages_not_looked_for > 100, "{:?}", one.figures);
    record(&dir.path().join("2"), without_finals(|_| true));
    let all = judge(&dir.path().join("2")).unwrap();
    let of_lost = all.checkers.iter().find(|one| one.checker == "lost-write").unwrap();
    assert_eq!(of_lost.findings.looked_at(Guarantee::G1), 0);

    let sum = index(dir.path()).unwrap();
    assert!(!sum.violations.is_empty());
    let both = one.figures.messages_not_looked_for + all.figures.messages_not_looked_for;
    assert_eq!(sum.acknowledged_messages_not_looked_for, both);
    let page = fs::read_to_string(dir.path().join("1").join(PAGE)).unwrap();
    assert!(page.contains("<p>0 acknowledged messages lost, "));
    assert!(!page.contains(" lost, 0 not looked for"));
}

#[test]
fn an_append_that_is_answered_during_the_read_at_the_end_is_not_looked_for() {
    let mut late = long();
    let finals =
        |event: &Event| matches!(&event.kind, EventKind::Invoke(Call::Read(read)) if read.is_final);
    let begins = late.events.iter().position(finals).unwrap();
    let (at, last) = (late.events[begins].at, late.events.last().unwrap().at);
    let call = late.events.iter().find_map(|event| match &event.kind {
        EventKind::Invoke(Call::Append(append)) => Some(append.clone()),
        _ => None,
    });
    let sent = Sent { client_msg_id: "late".to_owned(), issued_at_us: 7, hash: 0 };
    let append =
        AppendCall { messages: vec![sent], expected_tail: None, lane: None, ..call.unwrap() };
    let answer = Answer::Appended {
        first_seq: 100_000,
        last_seq: 100_000,
        commit_time_us: u64::MAX,
        duplicate: false,
        digest: String::new(),
    };
    let kinds = [(at, EventKind::Invoke(Call::Append(append))), (last, EventKind::Ok(answer))];
    let process = u64::MAX;
    let events = kinds.map(|(at, kind)| Event { at, process, node: Some(1), kind });
    late.events.extend(events);
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), late);
    let results = judge(dir.path()).unwrap();
    assert_eq!(results.figures.messages_not_looked_for, 1);
    let doubt = "1 acknowledged messages were not looked for at the end";
    assert_eq!((results.verdict, &results.doubts[..]), (Verdict::Unknown, &[doubt.to_owned()][..]));
}

#[test]
fn a_violation_names_its_guarantee_and_the_lines_that_show_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut lying = long();
    lie(&mut lying);
    record(dir.path(), lying);
    let results = judge(dir.path()).unwrap();
    let broken = results.judgements.iter().filter(|judgement| judgement.violations > 0);
    let titles: Vec<&str> = broken.map(|judgement| judgement.title.as_str()).collect();
    assert_eq!(titles, ["Known outcome"]);
    let history = fs::read_to_string(dir.path().join(HISTORY)).unwrap();
    let lines: Vec<&str> = history.lines().collect();
    for checked in &results.checkers {
        for event in checked.findings.kept.iter().flat_map(|violation| &violation.evidence) {
            let line = lines[event.line as usize - 1];
            assert!(line.contains(&format!("\"at\":{},", event.at)), "{event:?}: {line}");
        }
    }
}

#[test]
fn what_comes_from_outside_stays_text_on_both_pages() {
    let dir = tempfile::tempdir().unwrap();
    let evil = "<script>alert(1)</script>\"'";
    let mut run = simulate(2, 1, 200);
    run.run.name = evil.to_owned();
    run.run.workloads = vec![evil.to_owned()];
    run.run.command = evil.to_owned();
    run.run.planted = Some(evil.to_owned());
    run.faults[0].nemesis = evil.to_owned();
    run.faults[0].what = evil.to_owned();
    for event in &mut run.events {
        if let EventKind::Ok(Answer::Read { messages, .. }) = &mut event.kind {
            messages.iter_mut().for_each(|seen| seen.client_msg_id = evil.to_owned());
        }
    }
    record(&dir.path().join("run"), run);
    assert_eq!(judge(&dir.path().join("run")).unwrap().verdict, Verdict::Invalid);
    index(dir.path()).unwrap();
    for page in [dir.path().join("run").join(PAGE), dir.path().join(INDEX)] {
        let text = fs::read_to_string(page).unwrap();
        assert!(text.contains("&lt;script&gt;") && !text.contains("<script"));
    }
}
