//! What composition refuses, and what it writes into an artifact.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use millrace_compose::{
    ComponentError, ComposeError, Grant, InspectError, Kind, MAX_COMPONENT_BYTES, StageSpec,
    StepError, StepSpec, compose, digest, inspect, inspect_component,
};
use support::{component, every_grant, granted, stage, step};

fn refusal(step: StepSpec) -> (StepError, String) {
    match compose(&stage(vec![step])) {
        Err(ComposeError::Step { step, error }) => {
            assert_eq!(step, "s");
            let text = ComposeError::Step { step, error: error.clone() }.to_string();
            (error, text)
        }
        other => panic!("{:?}", other.map(|artifact| artifact.metadata)),
    }
}

fn of(component: Vec<u8>) -> StepSpec {
    StepSpec {
        name: "s".into(),
        kind: Kind::Map,
        component: Some(component),
        grants: [].into(),
        memory_max: None,
    }
}

/// A map component of the given core memories and imports, as small as can be.
fn map_component(memory: &str, extra: &str) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(component {extra}
            (core module $m {memory} (func (export "f")))
            (core instance $i (instantiate $m))
            (component $c)
            (instance $e (instantiate $c))
            (export "millrace:step/map@0.1.0" (instance $e)))"#
    ))
    .unwrap()
}

#[test]
fn what_is_no_component() {
    let (error, text) = refusal(of(b"hello".to_vec()));
    assert_eq!(error, StepError::Component(ComponentError::NotWasm));
    assert!(text.starts_with("step `s`: this is not a WebAssembly component"), "{text}");

    let (error, text) = refusal(of(wat::parse_str("(module)").unwrap()));
    assert_eq!(error, StepError::Component(ComponentError::CoreModule));
    assert!(text.contains("build it for the target wasm32-wasip2"), "{text}");

    let mut cut = component("pass-map");
    cut.truncate(cut.len() / 2);
    assert!(matches!(refusal(of(cut)).0, StepError::Component(ComponentError::Invalid(_))));

    let huge = vec![0; MAX_COMPONENT_BYTES + 1];
    assert!(matches!(refusal(of(huge)).0, StepError::Component(ComponentError::TooLarge { .. })));
}

#[test]
fn damaged_components_never_panic() {
    let good = component("pass-map");
    for at in (0..good.len()).step_by(97) {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        let _ = compose(&stage(vec![of(bad)]));
        let _ = inspect(&good[..at]);
    }
}

#[test]
fn the_export_of_another_kind() {
    let wrong = StepSpec { component: Some(component("above-limit")), ..of(Vec::new()) };
    let (error, text) = refusal(wrong);
    let exports = vec![Kind::Filter.interface().unwrap().to_owned()];
    assert_eq!(
        error,
        StepError::MissingExport { kind: Kind::Map, exports, fits: vec![Kind::Filter] }
    );
    assert_eq!(
        text,
        "step `s`: a map step has to export `millrace:step/map@0.1.0`, but this component exports \
         millrace:step/filter@0.1.0; it is a filter step: write `filter` in the pipeline"
    );
}

#[test]
fn no_export_at_all() {
    let (_, text) = refusal(of(wat::parse_str("(component)").unwrap()));
    assert!(
        text.ends_with(
            "but this component exports nothing; build it against a world of `millrace:step`"
        ),
        "{text}"
    );
}

#[test]
fn a_step_with_state_is_alone_in_its_stage() {
    let state = || step("counts", Kind::Accumulate, "pass-accumulate");
    let map = || step("s", Kind::Map, "pass-map");
    for steps in [vec![state(), map()], vec![map(), state()], vec![state(), state()]] {
        let error = compose(&stage(steps)).unwrap_err();
        assert_eq!(error, ComposeError::NotAlone { step: "counts".into(), steps: 2 });
        assert!(error.to_string().contains("to be the only step of its stage"), "{error}");
    }
    assert!(compose(&stage(vec![state()])).is_ok());
}

#[test]
fn another_kind_is_not_one_with_state() {
    let (error, text) = refusal(StepSpec { kind: Kind::Accumulate, ..of(component("pass-map")) });
    assert!(matches!(error, StepError::MissingExport { kind: Kind::Accumulate, .. }), "{error:?}");
    assert!(
        text.contains("an accumulate step has to export `millrace:step/accumulate@0.1.0`")
            && text.contains("it is a map step: write `map` in the pipeline"),
        "{text}"
    );
    let (_, text) = refusal(of(component("pass-accumulate")));
    assert!(
        text.contains("it is an accumulate step: write `accumulate` in the pipeline"),
        "{text}"
    );
}

#[test]
fn sockets_by_name_whatever_is_granted() {
    let sockets = granted(
        StepSpec { component: Some(component("opens-sockets")), ..of(Vec::new()) },
        &every_grant(),
    );
    let (error, text) = refusal(sockets);
    assert!(
        matches!(&error, StepError::Refused { import } if import.starts_with("wasi:sockets/")),
        "{error:?}"
    );
    assert!(text.contains("sockets are never granted"), "{text}");
}

#[test]
fn imports_by_name() {
    for (import, grant) in [
        ("wasi:logging/logging@0.1.0-draft", Some("log")),
        ("wasi:config/store@0.2.0-draft", Some("config")),
        ("millrace:step/key-value@0.1.0", Some("kv:BUCKET")),
        ("millrace:step/http@0.1.0", Some("http:METHOD:HOST")),
        ("wasmcloud:messaging/consumer@0.2.0", None),
        ("wasmcloud:bus/lattice@2.0.0", None),
        ("wasi:keyvalue/store@0.2.0-draft", None),
        ("wasi:http/outgoing-handler@0.2.0", None),
        ("wasi:random/random@0.3.0", None),
        ("wasi:io/poll@1.0.0", None),
        ("millrace:stage/flow@0.1.0", None),
        ("something", None),
    ] {
        let import_text = format!(r#"(import "{import}" (instance))"#);
        let (error, text) = refusal(of(map_component("", &import_text)));
        let import = import.to_owned();
        let expected = match grant {
            Some(grant) => StepError::NotGranted { import: import.clone(), grant },
            None => StepError::Refused { import: import.clone() },
        };
        assert_eq!(error, expected);
        assert!(text.contains(&format!("imports `{import}`")), "{text}");
        if let Some(grant) = grant {
            assert!(text.contains(&format!("add `{grant}` to the step's grants")), "{text}");
        }
    }
}

#[test]
fn an_interface_of_the_right_name_and_the_wrong_shape() {
    let (error, text) = refusal(of(map_component("(memory 1)", "")));
    assert!(matches!(error, StepError::WrongShape { .. }), "{error:?}");
    assert!(text.contains("`millrace:step/map@0.1.0` does not have the shape"), "{text}");

    let odd = r#"(import "wasi:io/poll@0.2.99" (instance (export "not-yet-known" (func))))"#;
    let (error, _) = refusal(of(map_component("", odd)));
    assert!(
        matches!(&error, StepError::WrongShape { interface, .. } if interface == "wasi:io/poll@0.2.99"),
        "{error:?}"
    );
}

#[test]
fn memory_out_of_range() {
    for asked in [0, 65_535, 1024 * 1024 * 1024 + 1, u64::MAX] {
        let spec = StepSpec { memory_max: Some(asked), ..of(component("pass-map")) };
        assert_eq!(refusal(spec).0, StepError::MemoryRange { asked });
    }
}

#[test]
fn a_minimum_above_the_maximum_names_both() {
    let spec = StepSpec { memory_max: Some(131_072), ..of(component("pass-map")) };
    let (error, text) = refusal(spec);
    let StepError::MemoryTooSmall { minimum, maximum } = error else { panic!("{error:?}") };
    assert_eq!(maximum, 131_072);
    assert!(
        minimum > maximum && text.contains(&minimum.to_string()) && text.contains("131072"),
        "{text}"
    );
}

#[test]
fn memories_that_cannot_be_counted() {
    for (memory, text) in [
        ("(memory 1 2 shared)", "shared memory"),
        ("(memory 1) (memory 1) (memory 1) (memory 1) (memory 1) (memory 1) (memory 1) (memory 1) (memory 1)
          (memory 1) (memory 1) (memory 1) (memory 1) (memory 1) (memory 1) (memory 1) (memory 1)", "more than 16"),
    ] {
        let error = inspect_component(&map_component(memory, "")).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
    // Nested components that double at each level.
    let mut nested =
        r#"(component $c (core module $m (memory 1)) (core instance (instantiate $m)))"#.to_owned();
    for _ in 0..10 {
        nested = format!(
            "(component $c {nested} (instance (instantiate $c)) (instance (instantiate $c)))"
        );
    }
    let bomb = wat::parse_str(format!("(component {nested} (instance (instantiate $c)))")).unwrap();
    assert!(inspect_component(&bomb).unwrap_err().to_string().contains("more than 16 memories"));
    // A module that a nested component takes from outside.
    let outer = r#"(component (core module $m (memory 1))
        (component $c (alias outer 1 $m (core module $o)) (core instance (instantiate $o)))
        (instance (instantiate $c)))"#;
    let error = inspect_component(&wat::parse_str(outer).unwrap()).unwrap_err().to_string();
    assert!(error.contains("from elsewhere"), "{error}");
}

#[test]
fn a_maximum_is_written_into_every_memory() {
    let mut spec = step("s", Kind::Map, "pass-map");
    spec.memory_max = Some(4 * 1024 * 1024);
    let given = inspect_component(spec.component.as_ref().unwrap()).unwrap();
    assert_eq!(given.memories.len(), 1);
    assert_eq!(
        given.memories[0].maximum_pages, None,
        "the toolchain sets none: it is ours that counts"
    );
    let artifact = compose(&stage(vec![spec])).unwrap();
    let memories = inspect_component(&artifact.bytes).unwrap().memories;
    let minimum_pages = given.memories[0].minimum_pages;
    assert!(
        memories.iter().any(|memory| memory.minimum_pages == minimum_pages && memory.maximum_pages == Some(64)),
        "{memories:?}"
    );
}

#[test]
fn the_same_inputs_make_the_same_bytes() {
    let spec = || {
        stage(vec![
            granted(step("a", Kind::Map, "asks-around"), &[Grant::Random, Grant::Clocks]),
            step("b", Kind::Filter, "above-limit"),
            step("c", Kind::Map, "asks-around"),
        ])
    };
    let first = compose(&spec()).unwrap();
    for _ in 0..5 {
        assert_eq!(compose(&spec()).unwrap().digest, first.digest);
    }
    let mut other = spec();
    other.version = "1.2.4".into();
    assert_ne!(compose(&other).unwrap().digest, first.digest);
}

#[test]
fn an_artifact_says_what_it_is_made_of() {
    let steps = vec![
        granted(step("convert", Kind::Map, "fahrenheit-to-celsius"), &[Grant::Log]),
        step("hot", Kind::Filter, "above-limit"),
    ];
    let artifact = compose(&stage(steps)).unwrap();
    let read = inspect(&artifact.bytes).unwrap();
    assert_eq!(read, artifact.metadata);
    assert_eq!((read.name.as_str(), read.version.as_str(), read.format), ("convert", "1.2.3", 1));
    assert_eq!(read.steps[0].digest, Some(digest(&component("fahrenheit-to-celsius"))));
    assert_eq!((read.steps[0].kind, &read.steps[0].grants[..]), (Kind::Map, &[Grant::Log][..]));
    assert_eq!(read.steps[1].memory_max, Some(64 * 1024 * 1024));
    let names: Vec<_> = read.parts.iter().map(|part| part.name.as_str()).collect();
    for part in ["intake", "outlet", "drive-map", "drive-filter", "deny"] {
        assert!(names.contains(&part), "{names:?}");
    }
    assert_eq!(artifact.digest, digest(&artifact.bytes));
    assert_eq!(inspect(&component("pass-map")), Err(InspectError::NotAStage));
    assert!(matches!(inspect(b"hello"), Err(InspectError::NotAComponent(_))));
}

#[test]
fn an_artifact_is_open_to_the_host_only_where_it_may_be() {
    let imports =
        |steps| inspect_component(&compose(&stage(steps)).unwrap().bytes).unwrap().imports;
    let mut harness = vec![
        "wasi:config/store@0.2.0-draft",
        "wasi:logging/logging@0.1.0-draft",
        "wasmcloud:messaging/consumer@0.2.0",
        "wasmcloud:messaging/types@0.2.0",
    ];
    let sorted = |mut imports: Vec<String>| {
        imports.sort();
        imports
    };
    assert_eq!(sorted(imports(vec![])), harness);
    harness.insert(0, "millrace:step/types@0.1.0");
    assert_eq!(sorted(imports(vec![step("s", Kind::Map, "asks-around")])), harness);
    let some = granted(step("s", Kind::Map, "asks-around"), &[Grant::Clocks, Grant::Random]);
    let opened =
        imports(vec![some]).into_iter().filter(|import| !harness.contains(&import.as_str()));
    let opened: Vec<_> =
        opened.map(|import| import.split('@').next().unwrap().to_owned()).collect();
    assert_eq!(
        sorted(opened),
        ["wasi:clocks/monotonic-clock", "wasi:clocks/wall-clock", "wasi:random/random"]
    );
}

/// Customers build with any 0.2 of WASI. The version stands in the file with its length before it, so one of the same length
/// is put in its place: two components, for both lengths.
#[test]
fn other_patch_versions_are_matched() {
    for (name, payload, returned, others) in [
        ("misbehaves", "fine", "fine", ["0.2.0", "0.2.3", "0.2.9"]),
        ("asks-around", "hash", "100 entries", ["0.2.10", "0.2.11", "0.2.99"]),
    ] {
        let built = component(name);
        let version = wasi_version(&built);
        for other in others {
            let patched = replace(&built, &format!("@{version}"), &format!("@{other}"));
            assert_eq!(wasi_version(&patched), other);
            let artifact = compose(&stage(vec![of(patched)]))
                .unwrap_or_else(|error| panic!("{name} with {other}: {error}"));
            let outcome = support::Stage::new(&artifact).call(&support::batch(&[payload]));
            assert_eq!(
                outcome.ok().payloads("plant.out.convert"),
                [returned],
                "{name} with {other}"
            );
        }
    }
}

fn wasi_version(component: &[u8]) -> String {
    let imports = inspect_component(component).unwrap().imports;
    imports.iter().find_map(|import| import.strip_prefix("wasi:io/poll@")).unwrap().to_owned()
}

fn replace(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let (from, to) = (from.as_bytes(), to.as_bytes());
    assert_eq!(from.len(), to.len());
    let mut out = bytes.to_vec();
    let places: Vec<_> =
        (0..bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
    assert!(!places.is_empty());
    for at in places {
        out[at..at + from.len()].copy_from_slice(to);
    }
    out
}

#[test]
fn a_kind_has_a_component_or_needs_none() {
    let (error, text) = refusal(StepSpec { component: None, ..of(Vec::new()) });
    assert_eq!(error, StepError::NoComponent(Kind::Map));
    assert!(text.contains("a map step needs a component"), "{text}");
    for kind in [Kind::DeDuplicate, Kind::Throttle, Kind::Concatenate] {
        let bare = || StepSpec { kind, component: None, ..of(Vec::new()) };
        let stage = StageSpec { name: "s".into(), version: "0.1.0".into(), steps: vec![bare()] };
        let made = compose(&stage).unwrap();
        let step = &made.metadata.steps[0];
        assert_eq!((step.kind, &step.digest, step.memory_max), (kind, &None, None));
        for wrong in [
            StepSpec { component: Some(component("pass-map")), ..bare() },
            StepSpec { grants: [Grant::Log].into(), ..bare() },
            StepSpec { memory_max: Some(1 << 20), ..bare() },
        ] {
            assert_eq!(refusal(wrong).0, StepError::NeedsNone(kind));
        }
    }
}

#[test]
fn a_monolithic_component_has_the_lattice_and_nothing_else_without_a_grant() {
    let monolithic = |bytes| StepSpec { kind: Kind::Monolithic, ..of(bytes) };
    let made = compose(&stage(vec![monolithic(component("sort-by-time"))])).unwrap();
    let names: Vec<&str> = made.metadata.parts.iter().map(|part| part.name.as_str()).collect();
    // What it imports of WASI is denied inside, and no harness is around it.
    assert!(names.contains(&"deny") && !names.contains(&"intake"), "{names:?}");
    let given = inspect_component(&made.bytes).unwrap();
    assert_eq!(given.exports, ["wasmcloud:messaging/handler@0.2.0"]);
    let lattice = ["wasmcloud:messaging/", "wasi:config/store"];
    let open = |import: &&String| !lattice.iter().any(|known| import.starts_with(known));
    assert_eq!(given.imports.iter().filter(open).count(), 0, "{:?}", given.imports);

    // As a map it would get none of it, and another component is none.
    let (error, _) = refusal(StepSpec { kind: Kind::Map, ..of(component("sort-by-time")) });
    assert!(matches!(error, StepError::MissingExport { .. }), "{error:?}");
    let (error, text) = refusal(monolithic(component("pass-map")));
    assert!(matches!(error, StepError::MissingExport { .. }), "{error:?}");
    assert!(text.contains("wasmcloud:messaging/handler"), "{text}");
    let two = compose(&stage(vec![
        monolithic(component("sort-by-time")),
        StepSpec { name: "other".into(), ..of(component("pass-map")) },
    ]));
    assert!(matches!(two, Err(ComposeError::NotAlone { steps: 2, .. })));
}

/// What lies outside is asked for by a part of the harness that has the step's name in it: the artifact is open for nothing
/// more than any other, and a step cannot ask in the name of its neighbour.
#[test]
fn what_lies_outside_is_asked_for_in_the_name_of_the_step() {
    let kv: Grant = "kv:b".parse().unwrap();
    let http: Grant = "http:get:a.example".parse().unwrap();
    let reaches =
        |name: &str| granted(step(name, Kind::Map, "reaches-out"), &[kv.clone(), http.clone()]);
    let plain = compose(&stage(vec![step("plain", Kind::Map, "pass-map")])).unwrap();
    let made = compose(&stage(vec![reaches("first-of-two"), reaches("second-of-two")])).unwrap();
    let imports = |bytes: &[u8]| {
        let mut imports = inspect_component(bytes).unwrap().imports;
        imports.sort();
        imports
    };
    assert_eq!(imports(&made.bytes), imports(&plain.bytes));
    for name in ["first-of-two", "second-of-two"] {
        let part = made.metadata.parts.iter().filter(|part| part.name == format!("outside-{name}"));
        assert_eq!(part.count(), 1);
        // In the metadata as well, and there with quotes around it.
        let written = format!("{name}\0");
        let found = made.bytes.windows(written.len()).filter(|w| *w == written.as_bytes()).count();
        assert_eq!(found, 1, "{name}");
    }
    assert!(!plain.metadata.parts.iter().any(|part| part.name.starts_with("outside")));

    // One interface granted is not the other.
    let (error, text) = refusal(granted(
        StepSpec { component: Some(component("reaches-out")), ..of(Vec::new()) },
        std::slice::from_ref(&kv),
    ));
    assert!(matches!(error, StepError::NotGranted { grant: "http:METHOD:HOST", .. }), "{error:?}");
    assert!(text.contains("add `http:METHOD:HOST` to the step's grants"), "{text}");

    let enrich = |grants: &[Grant]| StepSpec {
        name: "named".into(),
        kind: Kind::Enrich,
        component: None,
        grants: grants.iter().cloned().collect(),
        memory_max: None,
    };
    let made = compose(&stage(vec![enrich(&["kv:read:b".parse().unwrap()])])).unwrap();
    assert_eq!(imports(&made.bytes), imports(&plain.bytes));
    assert!(made.metadata.parts.iter().any(|part| part.name == "outside-named"));
}

#[test]
fn names_of_kinds() {
    for kind in Kind::ALL {
        assert_eq!(kind.name().parse(), Ok(kind));
    }
    assert!("window".parse::<Kind>().unwrap_err().to_string().contains("map, filter, flat-map"));
}
