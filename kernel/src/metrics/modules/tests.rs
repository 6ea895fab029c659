//! How many series a module has, and what becomes of them.

use prometheus::{Registry, TextEncoder};

use super::*;

/// Modules counted on a registry of their own, and what it answers.
fn modules(each: bool) -> (Modules, impl Fn() -> String) {
    let (modules, registry) = (Modules::new(each).unwrap(), Registry::new());
    registry.register(Box::new(modules.clone())).unwrap();
    (modules, move || TextEncoder::new().encode_to_string(&registry.gather()).unwrap())
}

/// What a module does with one event of this kind.
fn handle(module: &ModuleMetrics, kind: &str) {
    module.kind(kind).dispatched.inc();
    module.observe_latency(kind, 500_000);
    module.observe_duration(kind, 250_000_000);
    module.observe_fuel(1_000);
    module.fuel.inc_by(1_000);
    module.kind(kind).processed.inc();
}

fn series(text: &str, module: &str) -> usize {
    let label = format!("module=\"{module}\"");
    text.lines().filter(|line| line.contains(&label)).count()
}

#[test]
fn a_module_has_few_series_and_the_histograms_are_of_all() {
    let (modules, text) = modules(false);
    for name in ["a", "b"] {
        let module = modules.of(&name.into());
        module.start(1_000);
        ["init", "block"].into_iter().for_each(|kind| handle(&module, kind));
    }
    let seen = text();
    assert_eq!((series(&seen, "a"), series(&seen, "b")), (11, 11), "{seen}");
    for line in [
        "nexum_event_duration_seconds_count{event_type=\"block\"} 2",
        "nexum_event_duration_seconds_sum{event_type=\"block\"} 0.5",
        "nexum_dispatch_latency_seconds_bucket{event_type=\"init\",le=\"0.0003\"} 0",
        "nexum_dispatch_latency_seconds_bucket{event_type=\"init\",le=\"0.0005\"} 2",
        "nexum_fuel_consumed_bucket{le=\"1000\"} 4",
        "nexum_module_fuel_total{module=\"a\"} 2000",
    ] {
        assert!(seen.lines().any(|there| there == line), "{line} is not in\n{seen}");
    }

    let module = modules.of(&"a".into());
    ["logs", "outcome"].into_iter().for_each(|kind| handle(&module, kind));
    let rare = [&module.skipped, &module.restarts, &module.log_lines_dropped, &module.kind("logs").failed];
    rare.into_iter().for_each(Number::inc);
    let seen = text();
    assert_eq!((series(&seen, "a"), series(&seen, "b")), (19, 11), "{seen}");
    assert!(seen.contains("nexum_events_failed_total{event_type=\"logs\",module=\"a\"} 1\n"), "{seen}");
    modules.forget("a");
    let seen = text();
    assert_eq!((series(&seen, "a"), series(&seen, "b")), (0, 11), "{seen}");
    assert!(seen.contains("nexum_event_duration_seconds_count{event_type=\"block\"} 2\n"), "what was, was: {seen}");
}

#[test]
fn a_module_that_never_started_has_nothing_that_needs_an_instance() {
    let (modules, text) = modules(false);
    modules.of(&"a".into()).expected_event_age.set(7);
    let seen = text();
    assert_eq!(series(&seen, "a"), 2, "{seen}");
    assert!(seen.contains("nexum_expected_event_age_seconds{module=\"a\"} 7\n"), "{seen}");
}

#[test]
fn where_it_is_wanted_each_module_has_histograms() {
    let (modules, text) = modules(true);
    let (a, b) = (modules.of(&"a".into()), modules.of(&"b".into()));
    handle(&a, "block");
    ["block", "tick"].into_iter().for_each(|kind| handle(&b, kind));
    let seen = text();
    for line in [
        "nexum_event_duration_seconds_count{event_type=\"block\",module=\"a\"} 1",
        "nexum_dispatch_latency_seconds_count{event_type=\"tick\",module=\"b\"} 1",
        "nexum_fuel_consumed_count{module=\"b\"} 2",
    ] {
        assert!(seen.lines().any(|there| there == line), "{line} is not in\n{seen}");
    }
    assert!(!seen.contains("nexum_fuel_consumed_count "), "{seen}");
}

#[test]
fn threads_that_write_one_histogram_lose_nothing() {
    let (modules, text) = modules(false);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let module = modules.of(&format!("m{}", thread % 3).into());
            scope.spawn(move || (0..1_000).for_each(|_| handle(&module, "block")));
        }
    });
    let seen = text();
    assert!(seen.contains("nexum_event_duration_seconds_count{event_type=\"block\"} 8000\n"), "{seen}");
    assert!(seen.contains("nexum_fuel_consumed_sum 8000000\n"), "{seen}");
}
