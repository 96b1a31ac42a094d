//! `drainspec list`.

use std::path::PathBuf;

use clap::ValueEnum;
use serde_json::{Value, json};

use super::{CliError, Status, project};
use crate::{rules, scenario};

/// Arguments of `drainspec list`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to list
    what: What,
    /// As text, or as JSON for programs
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Folder with the servers [default: `servers`, here or above]
    #[arg(long, value_name = "DIR")]
    servers: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    Servers,
    Scenarios,
    Rules,
    Topologies,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Runs it.
pub fn run(args: &Args) -> Result<Status, CliError> {
    let items: Vec<Value> = match args.what {
        What::Servers => {
            let folder = project::servers_folder(args.servers.as_deref())?;
            project::servers(&folder)?
                .iter()
                .map(|server| {
                    json!({
                        "name": server.name,
                        "kind": server.spec.kind,
                        "language": server.spec.language,
                        "summary": server.spec.summary,
                        "features": server.spec.features,
                    })
                })
                .collect()
        }
        What::Scenarios => scenario::all()
            .map(|scenario| {
                json!({
                    "name": scenario.slug,
                    "group": scenario.group,
                    "summary": scenario.summary,
                    "needs": scenario.needs,
                    "rules": scenario.rules,
                })
            })
            .collect(),
        What::Topologies => project::topologies(&project::servers_folder(args.servers.as_deref())?, None)?
            .iter()
            .map(|topology| {
                json!({
                    "name": topology.name,
                    "kind": topology.spec.kind,
                    "summary": topology.spec.summary,
                    "withdraw": topology.spec.withdraw.words(),
                    "budget": topology.spec.budget,
                })
            })
            .collect(),
        What::Rules => rules::all()
            .map(|rule| {
                json!({
                    "name": rule.slug,
                    "level": rule.level,
                    "basis": rule.basis,
                    "summary": rule.sentence,
                })
            })
            .collect(),
    };
    match args.format {
        Format::Json => super::print(&format!("{:#}\n", Value::Array(items)))?,
        Format::Text => {
            let text = |item: &Value, key: &str| item[key].as_str().unwrap_or_default().to_owned();
            let width = items.iter().map(|item| text(item, "name").len()).max().unwrap_or(0);
            let lines = items.iter().map(|item| {
                let kind = ["kind", "group", "level"].iter().map(|key| text(item, key)).find(|kind| !kind.is_empty());
                let (name, kind) = (text(item, "name"), kind.unwrap_or_default());
                format!("{name:width$}  {kind:<11}  {}\n", text(item, "summary"))
            });
            super::print(&lines.collect::<String>())?;
        }
    }
    Ok(Status::AsExpected)
}
