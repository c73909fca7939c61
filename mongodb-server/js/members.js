// Waits until each of task.sets has its three members, one primary and two secondaries that are not far behind; prints a
// line for each: set, state, server, and up to when it has its primary's changes.

function memberLines(set) {
  const status = open(primaryOf(set), "backup").adminCommand({ replSetGetStatus: 1 });
  const primary = status.members.find((member) => member.stateStr === "PRIMARY");
  const others = status.members.filter((member) => member.stateStr === "SECONDARY" && member.health === 1);
  if (!primary || others.length !== cluster.sets[set].length - 1) {
    throw new Error(status.members.map((member) => `${member.name} is ${member.stateStr}`).join(", "));
  }
  for (const member of others) {
    const behind = (primary.optimeDate - member.optimeDate) / 1000;
    if (behind > cluster.lagSeconds) {
      throw new Error(`${member.name} is ${behind} s behind`);
    }
  }
  return [primary, ...others].map(
    (member) => `${set} ${member.stateStr} ${member.name.split(":")[0]} ${member.optimeDate.toISOString()}`
  );
}

for (const set of task.sets) {
  print(waitFor(`${set}: all its members`, () => memberLines(set)).join("\n"));
}
