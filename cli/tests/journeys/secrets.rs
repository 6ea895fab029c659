//! Secrets of the configuration, through everything that the programs say.

use std::{
    fs,
    process::{Command, Output},
};

use super::engine::{FAST_CHAIN as CHAIN, FROM_THE_FIRST, NEXUM, NEXUMCTL, Setup, free_port, path};

/// It stands wherever a secret may stand.
const KEY: &str = "k3y-48151623-k3y";

/// As text and as JSON.
const FORMS: [&[&str]; 2] = [&[], &["--json"]];

fn run(program: &str, args: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(program).args(args).env_remove("NEXUM_SOCKET").envs(variables.iter().copied()).output().unwrap()
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

#[test]
fn nothing_that_an_engine_says_has_a_secret_of_its_configuration() {
    let admin = format!("admin_listen = \"127.0.0.1:{}\"\nadmin_token = \"{KEY}\"\n", free_port());
    let endpoint = format!("http://me:{KEY}@127.0.0.1:{}/v2/{KEY}?key={KEY}", free_port());
    let values = format!(
        "[modules.config]\napiKey = \"{KEY}\"\ntokens = [\"{KEY}\"]\nurl = \"https://me:{KEY}@a.example.org/{KEY}\"\n\
         headers = {{ authorization = \"{KEY}\" }}\n\"x-api-key\" = \"{KEY}\"\n"
    );
    let bad = [
        ("mode = \"good\"", "mode = \"trap-on\"\non = 5"),
        FROM_THE_FIRST,
        ("backoff = [\"1s\", \"5m\"]", "backoff = [\"10ms\", \"50ms\"]"),
    ];
    let setup = Setup::new().with(&admin).mock(31337, CHAIN).chain(1, &[endpoint]);
    let mut engine = setup.module("hostile", "bad", &bad).with(&values).prepare();
    engine.launch_with(|command| {
        command.env("NEXUM_ENGINE__LOG_LEVEL", "debug");
    });
    engine.module_until("bad", "past the bad block", |node| node["dead_letters"] == 1);
    let letter = engine.json(&["dlq", "list", "bad"])[0]["seq"].to_string();
    let orders: [&[&str]; 15] = [
        &["tree"],
        &["health"],
        &["metrics"],
        &["logs"],
        &["service", "list"],
        &["module", "list"],
        &["state", "inspect", "bad"],
        &["dlq", "list", "bad"],
        &["dlq", "show", "bad", &letter],
        &["crash", "list", "bad"],
        &["crash", "show", "bad"],
        &["journal", "tail", "bad"],
        &["outbox", "list", "bad"],
        &["module", "upgrade", "bad"],
        &["module", "load", "/nonexistent", "--set", KEY],
    ];
    for order in orders {
        for form in FORMS {
            let output = engine.raw_ctl(&[order, form].concat());
            assert!(!said(&output).contains(KEY), "{order:?}: {}", said(&output));
        }
    }
    let (state, bundle) = (engine.dir.path().join("state"), engine.dir.path().join("bad"));
    let shown: [&[&str]; 3] = [
        &["check-config", "--config", path(&engine.config)],
        &["replay", "bad", "--state-dir", path(&state)],
        &["module", "inspect", path(&bundle)],
    ];
    for order in shown {
        for form in FORMS {
            let output = run(NEXUM, &[order, form].concat(), &[]);
            assert!(!output.stdout.is_empty(), "{order:?}: {}", said(&output));
            assert!(!said(&output).contains(KEY), "{order:?}: {}", said(&output));
        }
    }
    assert!(!engine.metrics_text().contains(KEY));
    assert!(engine.terminate().success());
    let log = engine.log_text();
    assert!(log.contains("nexum is up") && !log.contains(KEY), "{log}");
}

#[test]
fn no_refusal_repeats_what_was_given() {
    let url = format!("http://me:{KEY}@127.0.0.1:1/{KEY}");
    let engine = Setup::new().mock(31337, CHAIN).prepare();
    let config = path(&engine.config);
    let written = fs::read_to_string(config).unwrap();
    let check = ["check-config", "--config", config];
    for (variable, value) in [
        ("NEXUM_JOURNAL__KEY", KEY),
        ("NEXUM_ENGINE__LOG_LEVEL", KEY),
        ("NEXUM_ENGINE__LOG_FORMAT", KEY),
        ("NEXUM_ENGINE__SHUTDOWN_DEADLINE", KEY),
        ("NEXUM_OBSERVABILITY__ADMIN_TOKEN", KEY),
        ("NEXUM_OBSERVABILITY__HEALTH_LISTEN", url.as_str()),
    ] {
        let refused = run(NEXUM, &check, &[(variable, value)]);
        assert_eq!(refused.status.code(), Some(1), "{variable}: {}", said(&refused));
        let begins = format!("nexum: environment variable {variable}: ");
        assert!(said(&refused).starts_with(&begins) && !said(&refused).contains(KEY), "{}", said(&refused));
    }
    for line in [
        format!("[[chains]]\nchain_id = 1\n[[chains.endpoints]]\nurl = \"{url}"),
        format!("[[chains]]\nchain_id = 1\n[[chains.endpoints]]\nurl = {url}\""),
        format!("[[chains]]\nchain_id = 1\n[[chains.endpoints]]\nurl = [\"{url}\"]"),
        format!("[modules]\n\"{url}\" = 1"),
        format!("[[chains]]\nchain_id = 1\nmock = \"{url}\""),
        format!("[[chains]]\nchain_id = 1\nmock = \"wss://me:{KEY}@h/x\""),
    ] {
        fs::write(config, format!("{written}{line}\n")).unwrap();
        let refused = run(NEXUM, &check, &[]);
        assert_eq!(refused.status.code(), Some(1), "{line}");
        assert!(said(&refused).contains("nexum-engine.toml:") && !said(&refused).contains(KEY), "{}", said(&refused));
    }
    let variables = [("NEXUM_URL", url.as_str()), ("NEXUM_TOKEN", KEY), ("NEXUM_CONFIG", url.as_str())];
    let orders: [(&str, &[&str]); 9] = [
        // By the variable.
        (NEXUM, &["check-config"]),
        (NEXUM, &["check-config", "--config", &url]),
        (NEXUM, &["check-config", "--config", config, "--mock", &url]),
        (NEXUMCTL, &["module", "load", &url]),
        (NEXUMCTL, &["--help"]),
        (NEXUM, &["run", "--help"]),
        (NEXUMCTL, &["tree"]),
        (NEXUMCTL, &["tree", "--token-file", KEY]),
        (NEXUMCTL, &["module", "load", "/nonexistent", "--set", KEY]),
    ];
    for (program, args) in orders {
        let output = run(program, args, &variables);
        assert!(!said(&output).contains(KEY), "{args:?}: {}", said(&output));
    }
}
