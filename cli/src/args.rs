//! The arguments of `nexum`: those that it has in common with `nexumctl`, and its own.

pub mod compile;
pub mod key;
pub mod replay;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use nexum_ctl::exit::CODES;

pub use nexum_ctl::args::{Common, Module, Output, Package, Run, Settings, State, journal};

/// Runs WebAssembly modules that watch EVM chains.
#[derive(Debug, Parser)]
#[command(name = "nexum", version, propagate_version = true, max_term_width = 100, after_help = CODES)]
#[command(after_long_help = concat!(
    "Examples:\n",
    "  nexum run --config nexum-engine.toml\n",
    "  nexum run --mock fixtures/chains/demo.toml --module bundles/price-watch    no node needed\n",
    "  nexum check-config --config nexum-engine.toml\n",
    "  nexum module package modules/price-watch --component price_watch.wasm --out bundles/price-watch\n",
    "  nexum health && echo fine\n\n",
    "Settings: defaults < nexum-engine.toml < environment (NEXUM_SECTION__KEY, such as\n",
    "NEXUM_ENGINE__LOG_LEVEL) < flags.\n\n",
    "Exit codes: 0 done · 1 failed or refused · 2 wrong usage · 3 engine not reachable ·\n",
    "4 engine not healthy · 5 no such module, service, key, dead letter, effect or store"
))]
pub struct Nexum {
    #[command(flatten)]
    pub output: Output,
    #[command(subcommand)]
    pub command: NexumCommand,
}

#[derive(Debug, Subcommand)]
pub enum NexumCommand {
    Run(Run),
    Replay(replay::Replay),
    /// Make, import and list the key files of accounts; needs no engine
    #[command(subcommand)]
    Key(key::Key),
    #[command(hide = true)]
    CompileComponent(compile::CompileComponent),
    #[command(flatten)]
    Common(Common),
}

/// Reads the arguments of this process, among them what only an engine's program can check.
pub fn parse<T: CommandFactory + FromArgMatches>() -> T {
    let level = |command: clap::Command| {
        command.mut_arg("log_level", |argument| argument.value_parser(crate::config::log_level))
    };
    let command = T::command().mut_subcommand("run", level).mut_subcommand("check-config", level);
    T::from_arg_matches_mut(&mut command.get_matches()).unwrap_or_else(|error| error.format(&mut T::command()).exit())
}

#[cfg(test)]
mod tests {
    use clap::ValueHint;
    use nexum_ctl::args::Nexumctl;

    use super::*;

    #[test]
    fn the_definitions_are_sound() {
        Nexum::command().debug_assert();
    }

    /// Shells complete nothing well of which they are not told what it is.
    #[test]
    fn every_path_says_whether_it_is_a_file_or_a_directory() {
        fn undecided(command: &clap::Command) -> Vec<String> {
            let any = command.get_arguments().filter(|argument| argument.get_value_hint() == ValueHint::AnyPath);
            let own = any.map(|argument| format!("{} {}", command.get_name(), argument.get_id()));
            own.chain(command.get_subcommands().flat_map(undecided)).collect()
        }
        for program in [Nexum::command(), Nexumctl::command()] {
            assert_eq!(undecided(&program), Vec::<String>::new());
        }
    }
}
