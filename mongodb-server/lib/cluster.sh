# shellcheck shell=bash
# What every script needs that asks or changes the cluster. Sourced after settings.sh.

# shellcheck source-path=SCRIPTDIR source-path=SCRIPTDIR/lib source=secrets.sh
source "$MONGODB_DIR/lib/secrets.sh"
# shellcheck source-path=SCRIPTDIR source-path=SCRIPTDIR/lib source=servers.sh
source "$MONGODB_DIR/lib/servers.sh"
# shellcheck source-path=SCRIPTDIR source-path=SCRIPTDIR/lib source=containers.sh
source "$MONGODB_DIR/lib/containers.sh"
# shellcheck source-path=SCRIPTDIR source-path=SCRIPTDIR/lib source=mongosh.sh
source "$MONGODB_DIR/lib/mongosh.sh"
# shellcheck source-path=SCRIPTDIR source-path=SCRIPTDIR/lib source=steps.sh
source "$MONGODB_DIR/lib/steps.sh"
