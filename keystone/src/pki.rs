//! `keystone pki`.

use std::path::PathBuf;
use std::process::ExitCode;

use keyserver::store::SiteKey;
use net::entropy::OsEntropy;
use net::exit::Exit;
use protocol::Suite;

/// What to make.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make an authority, certificates for all daemons, and the keys of a site, in an empty folder.
    Init(Init),
}

/// Who gets certificates.
#[derive(Debug, clap::Args)]
pub(crate) struct Init {
    /// Folder to fill; made when it is missing, refused when it is not empty.
    #[arg(long, value_name = "FOLDER")]
    dir: PathBuf,
    /// Trust domain of all identities.
    #[arg(long, default_value = "example")]
    domain: String,
    /// Names of key servers.
    #[arg(long, value_name = "NAME", default_value = "ks", value_delimiter = ',')]
    key_server: Vec<String>,
    /// Others of the same name for each key server, 0 to 4: `NAME-2` and so on have keys of their own and one site certificate.
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    standbys: u8,
    /// Names of registrars.
    #[arg(long, value_name = "NAME", default_value = "r1", value_delimiter = ',')]
    registrar: Vec<String>,
    /// Names of members.
    #[arg(long, value_name = "NAME", default_value = "m1,m2,m3", value_delimiter = ',')]
    member: Vec<String>,
    /// Days for which everything holds, 1 to 3650.
    #[arg(long, default_value_t = 30)]
    days: u32,
    /// Give key servers an RSA-3072 signing key too, for groups of suite `rsa`.
    #[arg(long)]
    rsa: bool,
    /// Give them an RSA-512 one too, for groups of suite `paper`, which protects nothing. Needs a build with that feature.
    #[arg(long)]
    paper: bool,
}

pub(crate) fn main(command: Command) -> ExitCode {
    let Command::Init(init) = command;
    let mut suites = Vec::new();
    for (name, _) in [("rsa", init.rsa), ("paper", init.paper)].into_iter().filter(|(_, wanted)| *wanted) {
        let Some(suite) = Suite::named(name) else {
            eprintln!("keystone pki: suite `{name}` is not compiled in");
            return Exit::Usage.into();
        };
        suites.push(suite);
    }
    let spec = certs::Spec {
        domain: init.domain,
        key_servers: init.key_server,
        standbys: init.standbys,
        registrars: init.registrar,
        members: init.member,
        days: init.days,
        suites,
    };
    if let Err(error) = certs::create(&init.dir, &spec) {
        eprintln!("keystone pki: {error}");
        return Exit::Usage.into();
    }
    // For key servers that share a journal in ZooKeeper: each gets a copy of its own, which it then turns on by itself.
    if let Err(error) = SiteKey::create(&init.dir.join("site.store-key"), &mut OsEntropy) {
        eprintln!("keystone pki: {error}");
        return Exit::Usage.into();
    }
    let count = spec.key_servers.len() * (1 + usize::from(spec.standbys)) + spec.registrars.len() + spec.members.len();
    println!("{}: an authority, a site key and {count} certificates for {} days", init.dir.display(), spec.days);
    Exit::Ok.into()
}
