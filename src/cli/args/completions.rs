//! What can be typed behind `wiretape completions`.

use clap_complete::Shell;

/// `wiretape completions`.
#[derive(Debug, clap::Args)]
#[command(before_help = COMPLETIONS_EXAMPLES)]
pub struct Completions {
    /// The shell that is to complete
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: Shell,
}

const COMPLETIONS_EXAMPLES: &str = "\
Examples, each for a shell that is started after it:
  wiretape completions bash > ~/.local/share/bash-completion/completions/wiretape
  wiretape completions zsh > ~/.zfunc/_wiretape     with fpath+=~/.zfunc before compinit in .zshrc
  wiretape completions fish > ~/.config/fish/completions/wiretape.fish
  wiretape completions elvish >> ~/.config/elvish/rc.elv
  wiretape completions powershell >> $PROFILE";
