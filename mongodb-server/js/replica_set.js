// Makes a replica set of task.set's members, on the first of them, unless they are one; prints its primary.

const hosts = cluster.sets[task.set];
const greetings = [];
for (const host of hosts) {
  greetings.push(waitFor(`${host} answers`, () => open(host).adminCommand({ hello: 1 })));
}

// One that has lost its data is filled by the others, as long as they keep the set: it must not be made anew beside them.
if (!greetings.some((greeting) => greeting.setName)) {
  const configuration = { _id: task.set, members: hosts.map((host, index) => ({ _id: index, host: host })) };
  if (task.set === "config") {
    configuration.configsvr = true;
  }
  // By loopback, where nobody needs a password as long as there is no user.
  open(`127.0.0.1:${hosts[0].split(":")[1]}`).adminCommand({ replSetInitiate: configuration });
}

print(primaryOf(task.set));
