//! Components that make a compiler work or allocate without end: they are refused, and nobody else notices.

use std::{fs, path::Path};

use super::engine::{Engine, FAST_CHAIN, Setup, eventually, has_ended};

fn leb128(mut number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// Bytes with their length in front.
fn sized(content: &[u8]) -> Vec<u8> {
    [leb128(content.len() as u32), content.to_vec()].concat()
}

/// A component with a core module of so many functions. Each changes all its variables within all its loops, so that every
/// loop hands every variable on: what a compiler has to keep grows with the product of the two.
pub fn bomb(functions: u32, variables: u32, loops: u32) -> Vec<u8> {
    // One group of locals, all of type i32.
    let mut body = [vec![1], leb128(variables), vec![0x7f]].concat();
    for _ in 0..loops {
        body.extend([0x03, 0x40]);
    }
    for variable in 0..variables {
        // local.get, i32.const 1, i32.add, local.set
        body.extend([vec![0x20], leb128(variable), vec![0x41, 1, 0x6a, 0x21], leb128(variable)].concat());
    }
    for _ in 0..loops {
        // local.get 0, br_if 0, end
        body.extend([0x20, 0, 0x0d, 0, 0x0b]);
    }
    body.push(0x0b);
    let count = leb128(functions);
    let types = [1, 0x60, 0, 0];
    let declared = [count.clone(), vec![0; functions as usize]].concat();
    let code = [count, sized(&body).repeat(functions as usize)].concat();
    let sections = [(1, &types[..]), (3, &declared[..]), (10, &code[..])];
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    for (id, content) in sections {
        module.push(id);
        module.extend(sized(content));
    }
    // The module, and an instance of it.
    [b"\0asm\x0d\0\x01\0\x01".to_vec(), sized(&module), vec![2], sized(&[1, 0, 0, 0])].concat()
}

/// An engine with these settings, the module of that bundle, and a witness. The machine code of the witness is there by
/// then, so that it meets no limit, however busy the machine is.
fn engine_with(setup: Setup, settings: &str, source: &Path) -> Engine {
    let mut engine = setup.mock(31337, FAST_CHAIN).module("recorder", "witness", &[]).start();
    engine.module_until("witness", "runs", |node| node["state"] == "RUN");
    assert!(engine.terminate().success());
    let config = fs::read_to_string(&engine.config).unwrap();
    let config = config.replacen("[engine]\n", &format!("[engine]\n{settings}\n"), 1);
    let module = format!("[[modules]]\nsource = \"{}\"\n", source.display());
    fs::write(&engine.config, config + &module).unwrap();
    engine.launch();
    engine
}

/// Waits until the module is dead; of what.
fn dead_of(engine: &Engine, module: &str) -> String {
    let node = engine.module_until(module, "DEAD", |node| node["state"] == "DEAD");
    node["last_error"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_component_that_compiles_for_ever_is_refused_and_not_tried_over_and_over() {
    let setup = Setup::new();
    let source = setup.write_bundle_of(&bomb(300, 200, 200), "slow");
    let engine = engine_with(setup, "compile_timeout = \"2s\"", &source);
    let error = dead_of(&engine, "slow");
    assert!(error.ends_with("it takes longer than [engine] compile_timeout = 2s"), "{error}");
    engine.module_until("witness", "runs", |node| node["events_processed"].as_u64() > Some(3));
    let health = engine.get("health_listen", "/health");
    assert!(health.starts_with("HTTP/1.1 503"), "a module is dead: {health}");
    assert!(engine.get("health_listen", "/live").starts_with("HTTP/1.1 200"));

    // Whether the order is carried out is not the question here.
    let _ = engine.raw_ctl(&["module", "restart", "slow"]);
    engine.module_until("slow", "is not tried again", |node| {
        node["last_error"].as_str().is_some_and(|error| error.contains("it was not tried again"))
    });
    let error = engine.try_ctl(&["module", "upgrade", "slow"]).unwrap_err();
    assert!(error.contains("compile_timeout = 2s") && !error.contains("not tried again"), "{error}");
}

#[test]
fn a_component_that_takes_all_memory_to_compile_takes_none_of_the_engine() {
    let setup = Setup::new();
    let source = setup.write_bundle_of(&bomb(1, 2_000, 700), "large");
    let engine = engine_with(setup, "max_compile_memory_bytes = 67_108_864", &source);
    let error = dead_of(&engine, "large");
    assert!(error.ends_with("it takes more memory than [engine] max_compile_memory_bytes = 67108864"), "{error}");
    engine.module_until("witness", "runs", |node| node["events_processed"].as_u64() > Some(3));
    let most = engine.memory_bytes_max();
    assert!(most < 512 << 20, "{most}");
    assert!(dead_of(&engine, "large").contains("max_compile_memory_bytes"));
}

#[test]
fn while_one_component_compiles_others_run_and_it_ends_with_its_engine() {
    let setup = Setup::new();
    let source = setup.write_bundle_of(&bomb(3_000, 200, 200), "slow");
    let mut engine = engine_with(setup, "compile_timeout = \"1h\"", &source);
    engine.module_until("witness", "runs", |node| node["events_processed"].as_u64() > Some(3));
    assert_eq!(engine.module("slow")["state"], "LOAD");
    assert!(engine.get("health_listen", "/health").starts_with("HTTP/1.1 "), "it answers");
    let compilers = engine.children();
    let [compiler] = compilers[..] else { panic!("{compilers:?}") };
    engine.kill9();
    eventually("the compiler ends", || has_ended(compiler));
}
