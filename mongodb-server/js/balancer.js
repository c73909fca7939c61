// Tells the balancer's mode, "full" or "off"; with task.balancer "stop" or "start" stops it, and waits until what is under way
// has ended, or starts it.

const balancerRouter = anyRouter("backup");
if (task.balancer === "stop") {
  balancerRouter.adminCommand({ balancerStop: 1, maxTimeMS: cluster.waitSeconds * 1000 });
  waitFor("the balancer's round ends", () => !balancerRouter.adminCommand({ balancerStatus: 1 }).inBalancerRound);
} else if (task.balancer === "start") {
  balancerRouter.adminCommand({ balancerStart: 1, maxTimeMS: cluster.waitSeconds * 1000 });
}
print(balancerRouter.adminCommand({ balancerStatus: 1 }).mode);
