// On the primary of a set, by loopback: makes it a secondary for a minute, once another has all its changes.

const stepping = open(`127.0.0.1:${cluster.sets[task.set][0].split(":")[1]}`, "root");
stepping.adminCommand({ replSetStepDown: 60, secondaryCatchUpPeriodSecs: 30 });
