//! The program as a stranger meets it.
#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

use std::process::{Command, Output};

fn client_ctl(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_client-ctl")).args(args).output().unwrap()
}

#[test]
fn help_explains_and_errors_name_what_is_wrong() {
    let help = client_ctl(&["--help"]);
    let text = String::from_utf8(help.stdout).unwrap();
    assert!(help.status.success());
    for word in ["--config", "--check", "Exit codes", "KEYSTONE_LOG", "--unix-socket"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    for args in [&[][..], &["--config"], &["--nonsense"]] {
        assert_eq!(client_ctl(args).status.code(), Some(2), "{args:?}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "key_server = \"ks\"\nkey_sever_address = \"x:1\"\n").unwrap();
    let path = file.path().to_str().unwrap();
    for args in [&["--config", path][..], &["--config", path, "--check"]] {
        let output = client_ctl(args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(path) && text.contains(":2:") && text.contains("key_sever_address"), "{text}");
        assert!(output.stdout.is_empty());
    }
    let output = client_ctl(&["--config", "/nonexistent/client-ctl.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("/nonexistent/client-ctl.toml"));
}
