# shellcheck shell=bash
# How services run: as processes of this machine or as containers (ENLIGHT_RUNTIME). Sourced after settings.sh.
#
# What the scripts ask of either: recorded_names, read_record, is_running, clear_up, show_log, answers, taken_ports,
# instance_place, start_instance, stop_instances, start_worker, stop_workers, worker_state, check_runtime, check_programs,
# prepare_runtime, join_services, stop_services, leave_runtime, check_nginx_conf, write_runtime_nginx_conf, launch_nginx, reload_nginx, leave_nginx, stop_nginx.

if [[ $ENLIGHT_RUNTIME == docker ]]; then
  # shellcheck source-path=SCRIPTDIR source=containers.sh
  source "$MANAGE_DIR/lib/containers.sh"
  # shellcheck source-path=SCRIPTDIR source=plan.sh
  source "$MANAGE_DIR/lib/plan.sh"
  # shellcheck source-path=SCRIPTDIR source=workers.sh
  source "$MANAGE_DIR/lib/workers.sh"
  # shellcheck source-path=SCRIPTDIR source=runtime_docker.sh
  source "$MANAGE_DIR/lib/runtime_docker.sh"
  # shellcheck source-path=SCRIPTDIR source=nginx_container.sh
  source "$MANAGE_DIR/lib/nginx_container.sh"
  # shellcheck source-path=SCRIPTDIR source=services_docker.sh
  source "$MANAGE_DIR/lib/services_docker.sh"
else
  # shellcheck source-path=SCRIPTDIR source=processes.sh
  source "$MANAGE_DIR/lib/processes.sh"
  # shellcheck source-path=SCRIPTDIR source=plan.sh
  source "$MANAGE_DIR/lib/plan.sh"
  # shellcheck source-path=SCRIPTDIR source=workers.sh
  source "$MANAGE_DIR/lib/workers.sh"
  # shellcheck source-path=SCRIPTDIR source=runtime_process.sh
  source "$MANAGE_DIR/lib/runtime_process.sh"
  # shellcheck source-path=SCRIPTDIR source=nginx.sh
  source "$MANAGE_DIR/lib/nginx.sh"
fi
# shellcheck source-path=SCRIPTDIR source=nginx_instances.sh
source "$MANAGE_DIR/lib/nginx_instances.sh"
# shellcheck source-path=SCRIPTDIR source=report.sh
source "$MANAGE_DIR/lib/report.sh"
