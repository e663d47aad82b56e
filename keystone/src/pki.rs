//! `keystone pki`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use keyserver::store::SiteKey;
use net::entropy::OsEntropy;
use net::exit::Exit;
use protocol::Suite;
use protocol::identity::Identity;

/// What to make.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make an authority, certificates for all daemons, the keys of a site, and a policy to begin with, in an empty folder.
    Init(Init),
    /// Sign a token (JWT) for one registration, with the development key of such a folder. Prints it, or writes it to a file.
    Token(Token),
    /// Roll a key, in a folder of `init`: `begin` makes another one and tells of both, `switch` puts it first, `finish` keeps only
    /// what is first. The README says what goes to whom between the steps.
    Roll(Roll),
    /// Make a new site certificate for the keys that a key server has.
    Renew(Renew),
}

/// Which key, and how far.
#[derive(Debug, clap::Args)]
pub(crate) struct Roll {
    /// The step.
    #[arg(value_enum)]
    step: Step,
    /// The key.
    #[arg(value_enum)]
    key: Key,
    /// Folder that `keystone pki init` has filled.
    #[arg(long, value_name = "FOLDER")]
    dir: PathBuf,
    /// The key server, or a standby of its own name (`ks-2`), whose key it is. Not for `site`.
    #[arg(long, value_name = "NAME", default_value = "ks")]
    key_server: String,
    /// Days for which site certificates hold, 1 to 3650.
    #[arg(long, default_value_t = 30)]
    days: u32,
    /// Hours that everybody is given between two steps; 0 forces the next one.
    #[arg(long, default_value_t = 48)]
    hours: u32,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Step {
    Begin,
    Switch,
    Finish,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Key {
    /// Static Noise key of a key server.
    Noise,
    /// Keys that a key server signs with.
    Signing,
    /// The site's own key.
    Site,
}

/// Whose certificate.
#[derive(Debug, clap::Args)]
pub(crate) struct Renew {
    /// Folder that `keystone pki init` has filled.
    #[arg(long, value_name = "FOLDER")]
    dir: PathBuf,
    /// The key server.
    #[arg(long, value_name = "NAME", default_value = "ks")]
    key_server: String,
    /// Days for which it holds, 1 to 3650.
    #[arg(long, default_value_t = 30)]
    days: u32,
}

/// Who gets a token.
#[derive(Debug, clap::Args)]
pub(crate) struct Token {
    /// Folder that `keystone pki init` has filled.
    #[arg(long, value_name = "FOLDER")]
    dir: PathBuf,
    /// The client's identity.
    #[arg(long, value_name = "URI")]
    identity: String,
    /// Seconds for which it is good, 1 to 86,400.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// File of mode 0600 to write, in place of one that is there. Default: standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
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
    let init = match command {
        Command::Init(init) => init,
        Command::Token(token) => return ended(sign(&token)),
        Command::Roll(args) => return ended(roll(&args)),
        Command::Renew(Renew { dir, key_server, days }) => {
            return ended(certs::renew(&dir, &key_server, days).map(|written| list(&written)));
        }
    };
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
    let policy = init.dir.join("policy.toml");
    if let Err(error) = std::fs::write(&policy, sample_policy(&spec.domain)) {
        eprintln!("keystone pki: {}: {error}", policy.display());
        return Exit::Usage.into();
    }
    let count = spec.key_servers.len() * (1 + usize::from(spec.standbys)) + spec.registrars.len() + spec.members.len();
    let folder = init.dir.display();
    println!("{folder}: an authority, a site key, {count} certificates for {} days, and a policy", spec.days);
    Exit::Ok.into()
}

fn ended<E: std::fmt::Display>(result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => Exit::Ok.into(),
        Err(error) => {
            eprintln!("keystone pki: {error}");
            Exit::Usage.into()
        }
    }
}

fn roll(args: &Roll) -> Result<(), certs::PkiError> {
    let step = match args.step {
        Step::Begin => certs::Step::Begin,
        Step::Switch => certs::Step::Switch,
        Step::Finish => certs::Step::Finish,
    };
    let key = match args.key {
        Key::Noise => certs::Rolled::Noise,
        Key::Signing => certs::Rolled::Signing,
        Key::Site => certs::Rolled::Site,
    };
    let wait = Duration::from_secs(3_600 * u64::from(args.hours));
    list(&certs::roll(&args.dir, &args.key_server, (key, step), args.days, wait)?);
    Ok(())
}

fn list(written: &[PathBuf]) {
    written.iter().for_each(|path| println!("{}: written", path.display()));
}

/// One group for all members, and what else a policy can say.
fn sample_policy(domain: &str) -> String {
    format!(
        r#"# The groups, and who may be in them. `keystone policy check FILE` says what it means; a key server
# reads it again when it changes. What is said of an identity stands before what is said of a prefix.

[[group]]
id = 1
name = "news"
address = "239.77.1.1:7100"
allow = ["spiffe://{domain}/member/*"]
# deny = ["spiffe://{domain}/member/eve"]
# batch_ms = 1000   # joins and leaves wait so long for others, to share a rekey
# lease_s = 600     # who is silent for longer is taken for gone, and evicted

# [[group.rule]]    # says more about some
# identity = "spiffe://{domain}/member/guest/*"
# kinds = ["token"]
# role = "receiver"
# until = 2030-12-31T00:00:00Z
"#
    )
}

fn sign(token: &Token) -> Result<(), Box<dyn std::error::Error>> {
    let identity = Identity::parse(&token.identity)?;
    let text = certs::TokenIssuer::load(&token.dir)?.sign(&identity, Duration::from_secs(token.seconds))?;
    let Some(path) = &token.out else {
        println!("{text}");
        return Ok(());
    };
    // Beside it and then in its place, so that nobody reads half of one.
    let mut beside = path.clone().into_os_string();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let _ = std::fs::remove_file(&beside);
    net::secret_file::create_private(&beside, text.as_bytes())?;
    Ok(std::fs::rename(&beside, path)?)
}
